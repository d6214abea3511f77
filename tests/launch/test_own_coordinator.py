from __future__ import annotations

import pytest

from quorate.cli.common import Connection
from quorate.cli.status import fetch_status
from quorate.identity import Endpoint
from quorate.launch.own_coordinator import OwnCoordinator, own_endpoint
from tests.launch.scripted import is_running


@pytest.mark.parametrize(
    ("text", "max_nodes", "expected"),
    [
        ("localhost:0", 1, Endpoint("localhost", 0)),
        ("[::1]:0", 1, Endpoint("::1", 0)),
        ("localhost:0", 2, None),
        ("localhost", 1, None),
        ("", 1, None),
        ("c1:0,c2:0", 1, None),
    ],
)
def test_port_0_asks_for_one_where_nobody_else_has_to_find_it(
    text: str, max_nodes: int, expected: Endpoint | None
) -> None:
    assert own_endpoint(text, max_nodes) == expected


def test_it_ends_when_it_is_closed_and_leaves_nothing() -> None:
    own = OwnCoordinator(Endpoint("localhost", 0), None, None)
    status = fetch_status(Connection([own.endpoint], 10.0))
    pid = int(status["coordinator"].rpartition(":")[2])
    assert is_running(pid)
    assert list(own.folder.iterdir())
    own.close()
    own.close()
    assert not is_running(pid)
    assert not own.folder.exists()
