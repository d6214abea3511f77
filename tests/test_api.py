"""What a store tells of rank 0, when somebody else has written there."""

from __future__ import annotations

import pytest

from quorate.api import RendezvousStoreInfo
from quorate.errors import RendezvousStateError
from quorate.stores.memory import MemoryStore


def test_rank_0_tells_the_others() -> None:
    store = MemoryStore()
    told = RendezvousStoreInfo.build(0, store, "node1", 29500)
    assert RendezvousStoreInfo.build(1, store, None) == told == RendezvousStoreInfo("node1", 29500)


@pytest.mark.parametrize(
    ("addr", "port"),
    [
        (b"\xff", b"1"),
        (b"a", b""),
        (b"a", b"x"),
        (b"a", b"65536"),
        (b"a", b"-1"),
        (b"a", b"9" * 5000),
    ],
)
def test_what_is_no_address_or_port_is_refused(addr: bytes, port: bytes) -> None:
    """R15"""
    store = MemoryStore()
    store.set(RendezvousStoreInfo.MASTER_ADDR_KEY, addr)
    store.set(RendezvousStoreInfo.MASTER_PORT_KEY, port)
    with pytest.raises(RendezvousStateError, match="rank 0's address and port"):
        RendezvousStoreInfo.build(1, store, None)
