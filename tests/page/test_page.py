"""The page in headless Chromium: what a person sees, does with keys, and is told by a reader."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quorate.core.settings import NUMBER_MAX
from quorate.page.access import Access
from quorate.page.feed import Feed
from tests.page.stage import RUN, Stage
from tests.page.visits import visit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(60)]

Until = Callable[..., Any]
Eyes = Any

MANY = 4000
BLOCKS = 10

# An update of 4,000 nodes takes some 20 ms on a quiet machine.
UPDATE_MAX_MS = 100

OPERATOR = "an operator's secret"

# What of the page's area times distance may jump while it is being looked at.
SHIFT_MAX = 0.02

CONTRAST_MIN = 4.5


class Browser:
    """One window, asked in JavaScript."""

    def __init__(self, driver: Eyes, until: Until) -> None:
        self.driver = driver
        self.until = until

    def ask(self, expression: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {expression}", *arguments)

    def text(self, selector: str) -> str:
        found = self.ask("document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return str(found)

    def see(self, words: str, where: str = "body", timeout_s: float = 8.0) -> None:
        """Wait until some words stand somewhere."""
        self.until(lambda: words in self.text(where), timeout_s, f"{words!r} in {where}")

    def press(self, *keys: str) -> None:
        """Press keys where the focus is, one after the other."""
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                code = {"type": kind, "key": key, "windowsVirtualKeyCode": CODES.get(key, 0)}
                self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", code)

    def media(self, **features: str) -> None:
        """Pretend that the system prefers something."""
        told = [{"name": n.replace("_", "-"), "value": v} for n, v in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": told})

    def rows(self) -> list[str]:
        """The rows that exist, as a screen reader reads them."""
        rows = self.ask(
            "[...document.querySelectorAll('[role=row]')]"
            ".sort((a, b) => a.ariaRowIndex - b.ariaRowIndex)"
            ".map(row => row.textContent)"
        )
        return list(rows)

    def active(self) -> str:
        """The row that the keys are on."""
        text = self.ask(
            "document.getElementById(document.getElementById('lanes')"
            ".getAttribute('aria-activedescendant'))?.textContent ?? ''"
        )
        return str(text)

    def complaints(self) -> list[str]:
        """What the browser has to say: errors, and breaches of the policy."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if not any(word in entry["message"] for word in EXPECTED)
        ]


# Coordinators that end, and refusals.
EXPECTED = ("net::ERR_", "status of 401", "status of 409")

CODES = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36, "PageDown": 34}
CODES |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


@pytest.fixture(scope="module")
def driver() -> Iterator[Eyes]:
    from tests.page.browser import chromium

    with chromium() as window:
        yield window


@pytest.fixture
def browser(driver: Eyes, until: Until) -> Iterator[Browser]:
    """The window, as it is when it is opened for the first time."""
    window = Browser(driver, until)
    window.media()
    window.complaints()
    yield window
    assert window.complaints() == []
    driver.get("about:blank")


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A run of four nodes."""
    stage = Stage(min_nodes=2, max_nodes=4)
    stage.attach([f"node{number}" for number in range(1, 5)])
    stage.join()
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def crowd() -> Iterator[Stage]:
    """A run of thousands of nodes in ten blocks."""
    stage = Stage(min_nodes=MANY // 2, max_nodes=MANY, last_call_s=600)
    names = [f"node{number}" for number in range(MANY)]
    stage.attach(names, lambda name: {"block": str(int(name[4:]) * BLOCKS // MANY)})
    stage.join()
    yield stage
    stage.close()


def open_page(browser: Browser, stage: Stage) -> None:
    browser.driver.get(stage.url)
    browser.ask("(localStorage.clear(), sessionStorage.clear())")
    browser.driver.refresh()


def test_a_run_is_told_and_stays_up_to_date(browser: Browser, stage: Stage) -> None:
    open_page(browser, stage)
    browser.see(RUN, "h1")
    browser.see("complete", "#phase")
    browser.see("Round 0 has stood for", "#sentence")
    assert browser.text("#figure-world").split() == ["4", "of", "2", "to", "4"]
    for rank, row in enumerate(browser.rows()):
        assert row.startswith(f"node{rank + 1}4711_0participant, rank {rank} for")
    assert "Places by rank: 4 with a rank." in browser.text("#world-note")
    browser.see("live", "#link")
    stage.end(["node3"])
    browser.see("lost node3_4711_0: its process ended", "#events")
    browser.until(lambda: any("lost for" in row for row in browser.rows()))
    assert browser.text("#figure-lost") == "1"
    stage.join(["node1", "node2", "node4"])
    browser.see("Round 1 has stood for", "#sentence")
    stage.cut(["node2"])
    browser.until(lambda: any("rank 1, not connected" in row for row in browser.rows()))


def test_since_when_is_told_only_once_somebody_waits(browser: Browser) -> None:
    stage = Stage(min_nodes=2, max_nodes=2)
    try:
        stage.attach(["a", "b"])
        open_page(browser, stage)
        browser.see("Waiting for 2 more nodes (0 of 2).", "#sentence")
        stage.join(["a"])
        browser.see("Waiting for 1 more node (1 of 2), since ", "#sentence")
        assert re.search(r", since \d+ s\.$", browser.text("#sentence"))
    finally:
        stage.close()


def test_nothing_jumps_and_nothing_moves_for_those_who_do_not_want_it(
    browser: Browser, stage: Stage
) -> None:
    browser.media(prefers_reduced_motion="reduce")
    open_page(browser, stage)
    browser.see("live", "#link")
    browser.see("node4", "#sheet")
    browser.ask(
        "void (window.shift = 0, new PerformanceObserver(list => list.getEntries().forEach("
        "entry => window.shift += entry.value)).observe({type: 'layout-shift', buffered: false}))"
    )
    assert (
        browser.ask("getComputedStyle(document.querySelector('.link i')).animationName") == "none"
    )
    stage.end(["node4"])
    browser.see("lost node4", "#events")
    stage.attach(["node5"])
    stage.join()
    browser.see("Round 1 has stood", "#sentence")
    assert browser.ask("window.shift") <= SHIFT_MAX


def test_keys_reach_everything(browser: Browser, stage: Stage) -> None:
    open_page(browser, stage)
    browser.see("node4", "#sheet")
    order = []
    for _ in range(7):
        browser.press("Tab")
        order.append(browser.ask("document.activeElement.id || document.activeElement.className"))
    assert order == ["skip", "brand", "theme", "fold", "span", "lanes", "events"]
    browser.ask("document.getElementById('lanes').focus()")
    ring = "getComputedStyle(document.getElementById('lanes')).outlineStyle"
    browser.press("ArrowDown")
    assert browser.ask(ring) == "solid"
    assert browser.active().startswith("node1")
    browser.press("ArrowDown", "ArrowDown")
    assert browser.active().startswith("node3")
    assert browser.text("#detail").startswith("node3")
    assert "participant, rank 2, since " in browser.text("#detail")
    browser.press("End")
    assert browser.active().startswith("node4")
    browser.press("ArrowDown", "Home", "ArrowUp")
    assert browser.active().startswith("node1")


def test_light_and_dark(browser: Browser, stage: Stage) -> None:
    browser.media(prefers_color_scheme="dark")
    open_page(browser, stage)
    browser.see("complete", "#events")
    browser.see("node4", "#sheet")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = browser.ask(ground)
    assert contrasts(browser) == []
    browser.media(prefers_color_scheme="light")
    light = browser.ask(ground)
    assert contrasts(browser) == []
    assert dark != light
    browser.ask("document.getElementById('theme').click()")
    browser.ask("document.getElementById('theme').click()")
    assert browser.text("#theme") == "Theme: dark"
    assert browser.ask(ground) == dark
    browser.driver.refresh()
    browser.see("Theme: dark", "#theme")
    assert browser.ask(ground) == dark


def contrasts(browser: Browser) -> list[str]:
    """Texts that stand out too little from their ground (WCAG 2.2, 1.4.3)."""
    return list(browser.ask(CONTRASTS, CONTRAST_MIN))


CONTRASTS = """(() => {
  const least = arguments[0];
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const luminance = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (color !== 'rgba(0, 0, 0, 0)') return color;
    }
    return 'white';
  };
  const texts = ['h1', '.phase', '.sentence', '.figures dt', '.figures dd small', '.keys', '.name',
    '.legend li', '.coordinator', '.axis text', '.note', '.events time', '.events span', '.detail'];
  return texts.filter((selector) => {
    const element = document.querySelector(selector);
    const style = getComputedStyle(element);
    const color = element.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const [a, b] = [luminance(color), luminance(ground(element))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05) < least;
  });
})()"""


def test_places_beyond_count_are_counted_and_not_drawn(browser: Browser) -> None:
    stage = Stage(max_nodes=NUMBER_MAX)
    try:
        stage.attach(["a"])
        stage.join()
        open_page(browser, stage)
        told = f"1 with a rank, {NUMBER_MAX - 1:,} free. The first 4,097 are drawn."
        browser.see(told, "#world-note")
        cells = "document.querySelector('#world .free').getAttribute('d').split('M').length - 1"
        assert browser.ask(cells) == 4096
    finally:
        stage.close()


def test_thousands_are_folded_and_an_update_is_quick(browser: Browser, crowd: Stage) -> None:
    open_page(browser, crowd)
    browser.see("block 9", "#sheet")
    assert [row.partition("400")[0] for row in browser.rows()] == [
        f"block {block}" for block in range(BLOCKS)
    ]
    browser.see("4,000", "#figure-world")
    browser.see("live", "#link")
    for number in range(3):
        crowd.end([f"node{number}"])
        browser.see(f"{number + 1} lost", "#world-note")
    crowd.join(crowd.connections)
    browser.see("Round 1 has stood for", "#sentence")
    times_ms = browser.ask("performance.getEntriesByName('quorate-update').map(e => e.duration)")
    assert len(times_ms) >= 4
    # One of them moves all the nodes at once; the machine may be busy during others.
    assert sorted(times_ms)[len(times_ms) // 2] < UPDATE_MAX_MS


def test_a_group_is_unfolded_and_only_what_is_in_view_exists(
    browser: Browser, crowd: Stage
) -> None:
    open_page(browser, crowd)
    browser.see("block 9", "#sheet")
    browser.ask("document.getElementById('lanes').focus()")
    browser.press("ArrowDown", "ArrowDown", "ArrowRight", "ArrowDown")
    assert browser.active().startswith("node400")
    rows = browser.rows()
    assert len(rows) < 60
    expanded = "document.querySelector('[aria-expanded=true]').textContent"
    assert browser.ask(expanded).startswith("block 1")
    browser.press("PageDown", "PageDown")
    assert not browser.active().startswith("node400")
    assert browser.ask("document.getElementById('lanes').scrollTop") > 0
    browser.press("ArrowLeft")
    assert browser.active().startswith("block 1")
    browser.press("ArrowLeft", "End")
    assert browser.active().startswith("block 9")
    assert browser.ask("document.querySelector('[aria-expanded=true]')") is None
    browser.ask(
        "(document.getElementById('fold').value = '',"
        "document.getElementById('fold').dispatchEvent(new Event('change')))"
    )
    browser.until(lambda: browser.rows()[0].startswith("node"))
    browser.ask("document.getElementById('lanes').focus()")
    browser.press("End")
    browser.until(lambda: len(browser.rows()) < 60)
    assert int(browser.ask("document.querySelector('[aria-selected=true]').ariaRowIndex")) >= MANY


def test_a_token_lets_one_look_and_act(browser: Browser) -> None:
    access = Access(lambda: [b"a reader's secret"], lambda: [OPERATOR.encode()])
    stage = Stage(access, max_nodes=2)
    try:
        stage.attach(["a", "b"])
        stage.join()
        open_page(browser, stage)
        browser.see("wants a token", "#login")
        give_token(browser, "wrong")
        browser.see("does not accept this token", "#login-error")
        give_token(browser, "a reader's secret")
        browser.see("live", "#link")
        assert browser.text("#acts") == ""
        browser.ask("sessionStorage.clear()")
        browser.driver.refresh()
        browser.see("wants a token", "#login")
        give_token(browser, OPERATOR)
        browser.see("Hold", "#acts")
        assert "secret" not in browser.ask("location.href + JSON.stringify(localStorage)")
        act(browser, "#acts [data-act=hold]", "field-reason", "power works")
        browser.see("An operator holds rounds open: power works.", "#sentence")
        browser.ask("document.getElementById('lanes').focus()")
        browser.press("ArrowDown", "ArrowDown")
        act(browser, "#node-acts [data-act=evict]", "field-reason", "it is slow")
        browser.see("evicted by the operator: it is slow", "#events")
        act(browser, "#acts [data-act=scale]", "field-nodes", "77")
        browser.see("choose a number among these", "#dialog-error")
    finally:
        stage.close()


def test_what_an_act_does_is_said_before_it_is_done(browser: Browser) -> None:
    stage = Stage(Access(acting=lambda: [OPERATOR.encode()]), max_nodes=2)
    try:
        stage.attach(["a"])
        stage.join()
        open_page(browser, stage)
        browser.ask("sessionStorage.setItem('quorate-token', arguments[0])", OPERATOR)
        browser.driver.refresh()
        browser.see("a", "#sheet .name")
        browser.ask("void document.querySelector('#sheet .lane').click()")
        browser.see("Drain", "#node-acts")

        def told(act: str) -> str:
            browser.ask(f"void document.querySelector('[data-act={act}]').click()")
            text = browser.text("#dialog-text")
            browser.ask("void document.getElementById('dialog-cancel').click()")
            return text

        assert told("close") == "Nobody can join the run any more. Workers that run are let finish."
        for act in ("drain", "evict", "release", "scale"):
            assert "all workers are stopped and started again" in told(act)
    finally:
        stage.close()


def give_token(browser: Browser, token: str) -> None:
    browser.ask("void (document.getElementById('token').value = arguments[0])", token)
    browser.ask("void document.querySelector('#login button').click()")


def act(browser: Browser, button: str, field: str, value: str) -> None:
    browser.ask("void document.querySelector(arguments[0]).click()", button)
    browser.ask("void (document.getElementById(arguments[0]).value = arguments[1])", field, value)
    browser.ask("void document.getElementById('dialog-do').click()")


def test_several_runs_and_none(browser: Browser) -> None:
    stage = Stage(max_nodes=2)
    try:
        open_page(browser, stage)
        browser.see("Nothing here yet")
        stage.attach(["a", "b"])
        stage.join()
        browser.see(RUN, "h1")
        stage.attach(["c"], run_id="job2")
        browser.see("job2", "#runs")
        browser.ask("void document.querySelector('[data-run=job2]').click()")
        browser.see("job2", "h1")
        assert browser.ask("location.search") == "?run=job2"
        browser.driver.refresh()
        browser.see("job2", "h1")
    finally:
        stage.close()


def test_another_run_has_other_rows_and_nothing_is_selected_in_it(browser: Browser) -> None:
    stage = Stage(Access(acting=lambda: [OPERATOR.encode()]), max_nodes=2)
    try:
        stage.attach(["a1", "a2"])
        stage.attach(["b1", "b2"], run_id="job2")
        stage.join()
        browser.driver.get(f"{stage.url}/?run={RUN}")
        browser.ask("sessionStorage.setItem('quorate-token', arguments[0])", OPERATOR)
        browser.driver.refresh()
        browser.see("a2", "#sheet")
        browser.ask("void document.querySelector('#sheet .lane').click()")
        browser.see("Evict", "#node-acts")
        browser.ask("void document.querySelector('[data-run=job2]').click()")
        browser.see("job2", "h1")
        assert [row[:2] for row in browser.rows()] == ["b1", "b2"]
        assert (browser.active(), browser.text("#detail"), browser.text("#node-acts")) == ("",) * 3
    finally:
        stage.close()


def test_a_run_may_be_named_before_it_is_there(browser: Browser) -> None:
    stage = Stage(max_nodes=2)
    try:
        stage.attach(["a"], run_id="other")
        browser.driver.get(f"{stage.url}/?run={RUN}")
        browser.see("Nothing here yet")
        browser.see("other", "#runs")
        assert browser.ask("document.getElementById('run-list').offsetHeight") > 0
        stage.attach(["b", "c"])
        stage.join(["b", "c"])
        browser.see("Round 0 has stood for", "#sentence")
        assert "Nothing here yet" not in browser.text("body")
    finally:
        stage.close()


def test_a_run_that_is_gone_is_not_shown_and_one_that_begins_anew_is(browser: Browser) -> None:
    stage = Stage(max_nodes=2)
    try:
        stage.attach(["old1", "old2"])
        open_page(browser, stage)
        browser.see("old2", "#sheet")
        stage.join()
        browser.see("complete", "#phase")
        stage.forget()
        browser.see(f"Run {RUN} is not here any more", "main")
        assert browser.ask("document.getElementById('run').hidden")
        stage.attach(["new1"])
        browser.see("new1", "#sheet")
        assert [row[:4] for row in browser.rows()] == ["new1"]
    finally:
        stage.close()


def test_another_timeline_of_the_run_is_fetched_though_its_versions_are_the_same(
    browser: Browser, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_page(browser, stage)
    browser.see("node4", "#sheet")
    # The page misses what is told of the end, as of a coordinator that is started again meanwhile.
    monkeypatch.setattr(Feed, "_drop", lambda feed, run_id: feed._timelines.pop(run_id))
    stage.forget()
    browser.until(lambda: visit(f"{stage.url}/timeline.json?run={RUN}").status == 404)
    stage.attach(["new1"])
    browser.until(lambda: [row[:4] for row in browser.rows()] == ["new1"])


def test_what_changes_while_the_timeline_is_fetched_is_not_lost(browser: Browser) -> None:
    stage = Stage(max_nodes=3)
    script = {"identifier": ""}
    try:
        stage.attach(["n1", "n2"])
        script = browser.driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument", {"source": SLOW_FETCH}
        )
        browser.driver.get(f"{stage.url}/?run={RUN}")
        browser.until(lambda: browser.ask("window.fetched"))
        stage.attach(["n3"])
        browser.until(lambda: browser.ask("window.told"))
        browser.ask("void window.arrive()")
        browser.until(lambda: [row[:2] for row in browser.rows()] == ["n1", "n2", "n3"])
        assert browser.ask("window.fetched") == 1
    finally:
        browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
        stage.close()


# The first timeline arrives when it is let; until then `told` says whether n3 was heard of.
SLOW_FETCH = """
const real = window.fetch;
const gate = new Promise((resolve) => { window.arrive = resolve; });
window.fetch = async (path, options) => {
  const response = await real(path, options);
  if (String(path).startsWith('timeline.json')) {
    window.fetched = (window.fetched ?? 0) + 1;
    await gate;
  }
  return response;
};
const decode = TextDecoder.prototype.decode;
TextDecoder.prototype.decode = function (...given) {
  const text = decode.apply(this, given);
  if (text.includes('"n3"')) window.told = true;
  return text;
};
"""


def test_a_coordinator_is_named_in_words_and_its_end_is_told(browser: Browser) -> None:
    stage = Stage(max_nodes=2)
    try:
        open_page(browser, stage)
        browser.see("live", "#link")
        browser.see(f"{socket.gethostname()} (process {os.getpid()})", "#coordinator")
    finally:
        stage.close()
    browser.see("no connection", "#link")
