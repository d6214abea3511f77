"""What can be posted, and what becomes of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from quorate.page.acts import Act
from quorate.wire.messages import Close, Drain, Evict, Hold, Release, Request, Scale


@pytest.mark.parametrize(
    ("content", "request_"),
    [
        ({"action": "close", "reason": "done"}, Close(7, "done")),
        ({"action": "drain", "node": "3", "reason": "disk"}, Drain(7, "3", "disk")),
        ({"action": "evict", "node": "a", "for_s": 60}, Evict(7, "a", 60.0, "")),
        ({"action": "evict", "node": "a"}, Evict(7, "a", None, "")),
        ({"action": "hold", "reason": "wait"}, Hold(7, "wait")),
        ({"action": "release"}, Release(7)),
        ({"action": "scale", "nodes": 4}, Scale(7, 4)),
        ({"action": "scale"}, Scale(7, None)),
    ],
)
def test_each_action_is_a_request_of_an_operator(
    content: dict[str, Any], request_: Request
) -> None:
    act = msgspec.json.decode(msgspec.json.encode({"run": "r"} | content), type=Act)
    assert act.request()(7) == request_


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"run": "r"}', b'{"run": "r", "action": 1}', b'{"run":"r","what":1}']
)
def test_anything_else_is_not_understood(content: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(content, type=Act)


def test_an_unknown_action_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no action 'explode', but there are close, drain"):
        Act("r", "explode").request()
