"""The routes of the page, asked over HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from quorate.compression import compress
from quorate.page.access import Access
from quorate.page.app import BODY_BYTES_MAX
from tests.page.stage import RUN, Stage
from tests.page.visits import events, visit

ACT = {"X_Quorate": "act", "Content_Type": "application/json"}


@pytest.fixture(scope="module")
def stages() -> Iterator[dict[str, Stage]]:
    """Two coordinators that several tests look at: an open one, and one with tokens."""
    tokens = Access(lambda: [b"reader"], lambda: [b"operator"])
    stages = {"open": Stage(max_nodes=2), "guarded": Stage(tokens, max_nodes=2)}
    for stage in stages.values():
        stage.attach(["a", "b"])
        stage.join()
    yield stages
    for stage in stages.values():
        stage.close()


@pytest.fixture
def stage(stages: dict[str, Stage]) -> Stage:
    return stages["open"]


@pytest.fixture
def guarded(stages: dict[str, Stage]) -> Stage:
    return stages["guarded"]


def post(stage: Stage, content: Any, token: str = "operator", **headers: str) -> tuple[int, str]:
    body = content if isinstance(content, bytes) else msgspec.json.encode(content)
    authorization = {"Authorization": f"Bearer {token}"} if token else {}
    answer = visit(f"{stage.url}/act", "POST", body, **ACT | authorization | headers)
    return answer.status, answer.text


class TestLooking:
    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/", "text/html; charset=utf-8"),
            ("/page.js", "text/javascript; charset=utf-8"),
            ("/page.css", "text/css; charset=utf-8"),
            ("/icon.svg", "image/svg+xml; charset=utf-8"),
            ("/status.json", "application/json"),
            (f"/history.json?run={RUN}", "application/json"),
            (f"/timeline.json?run={RUN}", "application/json"),
            ("/access", "application/json"),
            ("/healthz", "text/plain; charset=utf-8"),
            ("/readyz", "text/plain; charset=utf-8"),
        ],
    )
    def test_each_route_has_its_type_and_lets_nothing_foreign_in(
        self, stage: Stage, path: str, kind: str
    ) -> None:
        answer = visit(stage.url + path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        head = visit(stage.url + path, "HEAD")
        assert (head.status, head.body) == (200, b"")

    def test_everything_that_the_page_names_is_there(self, stage: Stage) -> None:
        text = visit(stage.url).text
        for name in ("page.js", "page.css", "icon.svg"):
            assert f'"{name}"' in text
        assert "http" not in text.replace("http-equiv", ""), "a foreign resource"
        assert "style=" not in text
        assert "onclick" not in text

    def test_the_status_is_that_of_the_command(self, stage: Stage) -> None:
        answer = visit(f"{stage.url}/status.json?run={RUN}")
        (run,) = answer.json["runs"]
        assert (run["run_id"], run["state"], len(run["nodes"])) == (RUN, "complete", 2)

    def test_history_and_timeline(self, stage: Stage) -> None:
        history = visit(f"{stage.url}/history.json?run={RUN}").json
        assert [record["world_size"] for record in history["rounds"]] == [2]
        timeline = visit(f"{stage.url}/timeline.json?run={RUN}").json
        assert [lane["addr"] for lane in timeline["lanes"]] == ["a", "b"]

    @pytest.mark.parametrize("path", ["/status.json", "/history.json", "/timeline.json"])
    def test_a_run_that_is_not_there(self, stage: Stage, path: str) -> None:
        answer = visit(f"{stage.url}{path}?run=other")
        assert (answer.status, answer.text) == (
            404,
            "There is no run 'other' here: /status.json names the runs.\n",
        )

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nothing", 404),
            ("GET", "/../app.py", 404),
            ("POST", "/status.json", 405),
            ("DELETE", "/", 405),
            ("GET", "/act", 405),
            ("HEAD", "/events", 405),
        ],
    )
    def test_what_is_not_there(self, stage: Stage, method: str, path: str, status: int) -> None:
        answer = visit(stage.url + path, method)
        assert answer.status == status
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]

    def test_a_large_answer_is_compressed(self, stage: Stage) -> None:
        answer = visit(f"{stage.url}/timeline.json?run={RUN}", Accept_Encoding="gzip")
        assert answer.headers["Content-Encoding"] == "gzip"

    def test_a_name_that_somebody_else_chose_is_refused(self, stage: Stage) -> None:
        port = urlsplit(stage.url).port
        answer = visit(f"{stage.url}/status.json", Host=f"evil.example:{port}")
        assert answer.status == 421
        assert "evil.example" in answer.text

    def test_headers_that_are_too_long_are_refused(self, stage: Stage) -> None:
        assert visit(stage.url, Cookie="x" * 20_000).status == 400


class TestEvents:
    def test_a_viewer_follows_a_run(self, stage: Stage) -> None:
        with events(f"{stage.url}/events?run={RUN}") as stream:
            assert next(stream)[0] == "coordinator"
            assert next(stream)[1][-1]["run"] == RUN
            version = next(stream)[1]["version"]
            stage.cut(["a"])
            diff = next(content for name, content in stream if name == "diff")
            assert diff["from"] == version
            assert diff["head"]["cut_off"] == 1

    def test_a_viewer_that_has_gone_is_forgotten(self, stage: Stage) -> None:
        with events(f"{stage.url}/events?run=") as stream:
            next(stream)
        for _ in range(70):
            with events(f"{stage.url}/events?run=") as stream:
                assert next(stream)[0] == "coordinator"


class TestTokens:
    @pytest.mark.parametrize("path", ["/", "/page.js", "/healthz", "/readyz", "/access"])
    def test_what_tells_nothing_of_runs_needs_none(self, guarded: Stage, path: str) -> None:
        assert visit(guarded.url + path).status == 200

    @pytest.mark.parametrize(
        "path",
        ["/status.json", "/history.json", "/timeline.json", "/events", "/metrics", "/nothing"],
    )
    def test_everything_else_does(self, guarded: Stage, path: str) -> None:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic reader"}):
            answer = visit(guarded.url + path, **headers)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert RUN not in answer.text

    @pytest.mark.parametrize("token", ["reader", "operator"])
    def test_both_tokens_let_one_look(self, guarded: Stage, token: str) -> None:
        answer = visit(f"{guarded.url}/status.json", Authorization=f"Bearer {token}")
        assert answer.status == 200

    def test_one_may_ask_for_ones_rights(self, guarded: Stage) -> None:
        def rights(**headers: str) -> Any:
            return visit(f"{guarded.url}/access", **headers).json

        assert rights() == {"read": False, "act": False, "operators": True}
        assert rights(Authorization="Bearer reader")["act"] is False
        assert rights(Authorization="Bearer operator") == {
            "read": True,
            "act": True,
            "operators": True,
        }

    def test_with_a_token_any_name_will_do(self, guarded: Stage) -> None:
        answer = visit(
            f"{guarded.url}/status.json", Host="proxy.example", Authorization="Bearer reader"
        )
        assert answer.status == 200


class TestActing:
    def test_an_operator_holds_and_releases(self, guarded: Stage) -> None:
        status, text = post(guarded, {"run": RUN, "action": "hold", "reason": "power works"})
        assert (status, text) == (200, '{"text":"no round completes until the run is released"}')
        assert guarded.run().state.held_reason == "power works"
        assert post(guarded, {"run": RUN, "action": "release"})[0] == 200
        assert not guarded.run().state.held

    @pytest.mark.parametrize("token", ["", "wrong", "reader"])
    def test_nobody_else_does(self, guarded: Stage, token: str) -> None:
        status, _ = post(guarded, {"run": RUN, "action": "hold"}, token)
        assert status in {401, 403}
        assert not guarded.run().state.held

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Origin": "http://evil.example"}, 403),
            ({"X_Quorate": ""}, 403),
            ({"Content_Type": "text/plain"}, 415),
        ],
    )
    def test_no_other_site_acts_through_a_browser(
        self, guarded: Stage, headers: dict[str, str], status: int
    ) -> None:
        assert post(guarded, {"run": RUN, "action": "hold"}, **headers)[0] == status
        assert not guarded.run().state.held

    def test_the_own_origin_may(self, guarded: Stage) -> None:
        assert post(guarded, {"run": RUN, "action": "release"}, Origin=guarded.url)[0] == 200

    @pytest.mark.parametrize(
        ("content", "status", "words"),
        [
            (b"{", 400, "This cannot be done"),
            ({"run": RUN, "action": "explode"}, 400, "no action 'explode'"),
            ({"run": "other", "action": "hold"}, 409, "There is no run 'other'"),
            ({"run": "x" * 300, "action": "hold"}, 409, "The run id is too long"),
            (b'{"run":"\xff"}', 400, "This cannot be done"),
            ({"run": RUN, "action": "drain", "node": "77"}, 409, "77"),
            ({"run": RUN, "action": "scale", "nodes": 99}, 409, "not of 99"),
        ],
    )
    def test_what_cannot_be_done_is_explained(
        self, guarded: Stage, content: Any, status: int, words: str
    ) -> None:
        answered, text = post(guarded, content)
        assert answered == status
        assert words in text

    def test_too_much_is_refused(self, guarded: Stage) -> None:
        status, _ = post(guarded, b" " * (BODY_BYTES_MAX + 1))
        assert status == 413

    def test_r15_what_is_compressed_is_not_inflated(self, guarded: Stage) -> None:
        """A few bytes could stand for gigabytes, and who sends them is not known yet."""
        body = compress(msgspec.json.encode({"run": RUN, "action": "hold"}))
        status, text = post(guarded, body, Content_Encoding="deflate")
        assert status == 400
        assert "This cannot be done" in text

    def test_without_operators_nobody_acts(self, stage: Stage) -> None:
        status, text = post(stage, {"run": RUN, "action": "hold"})
        assert status == 403
        assert "--operator-token-file" in text


def test_a_coordinator_ends_though_somebody_looks() -> None:
    stage = Stage()
    with events(f"{stage.url}/events?run=") as stream:
        next(stream)
        stage.close()
        assert list(stream)[1:] == []
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((str(urlsplit(stage.url).hostname), urlsplit(stage.url).port))
