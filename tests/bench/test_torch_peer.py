"""torch's own rendezvous, as a peer."""

from __future__ import annotations

import inspect

import msgspec
import pytest

from quorate.bench.tasks import Begin
from quorate.bench.threads import PEERS, Membership
from quorate.identity import Endpoint

pytestmark = pytest.mark.torch

LIMIT_S = 15.0


@pytest.mark.parametrize("name", ["c10d", "torch-c10d"])
def test_a_node_meets_itself(name: str) -> None:
    from quorate.backends.tcpstore import create_tcp_store

    store = create_tcp_store(Endpoint("127.0.0.1", 0), True, LIMIT_S)
    task = Begin("run", [f"127.0.0.1:{store.port}"], 1, 1, 0, 1)
    PEERS[name](task, 0, LIMIT_S).rehearse()
    peer = PEERS[name](msgspec.structs.replace(task, run_id="another"), 0, LIMIT_S)
    peer.connect()
    assert peer.join() == Membership(0, "1 nodes")


def test_a_node_does_not_inspect_its_call_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all nodes of this machine would do so on the same cores."""
    from quorate.backends.tcpstore import create_tcp_store

    monkeypatch.setattr(inspect, "stack", lambda *_: pytest.fail("it does"))
    store = create_tcp_store(Endpoint("127.0.0.1", 0), True, LIMIT_S)
    task = Begin("run", [f"127.0.0.1:{store.port}"], 1, 1, 0, 1)
    PEERS["torch-c10d"](task, 0, LIMIT_S).rehearse()
