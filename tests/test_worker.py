from __future__ import annotations

import pytest

from quorate.errors import RendezvousConnectionError, RendezvousSettingsError
from quorate.worker import worker_store
from tests.served import ThreadedCoordinator, make_handler

TOLD = {"QUORATE_RUN_ID": "job", "QUORATE_EPOCH": "e", "QUORATE_ROUND": "0"}


def test_a_program_of_its_own_has_no_store() -> None:
    with pytest.raises(RendezvousSettingsError, match="Start this program with `quorate run`"):
        worker_store({})


def test_without_a_coordinator_the_backend_is_to_blame() -> None:
    with pytest.raises(RendezvousSettingsError, match="another --rdzv-backend than 'quorate'"):
        worker_store(TOLD)


def test_a_workers_store_is_that_of_its_round_and_has_a_session_of_its_own() -> None:
    coordinator = ThreadedCoordinator()
    agent = make_handler(coordinator.endpoint)
    info = agent.next_rendezvous()
    assert info.place is not None
    epoch, number = info.place.world
    environment = {
        "QUORATE_ENDPOINT": str(coordinator.endpoint),
        "QUORATE_RUN_ID": "job",
        "QUORATE_EPOCH": epoch,
        "QUORATE_ROUND": str(number),
    }
    store = worker_store(environment)
    store.set("k", b"v")
    store.close()
    with pytest.raises(RendezvousConnectionError, match="closed"):
        store.get("k")
    assert info.store.get("k") == b"v"
    agent.leave()
    coordinator.stop()
