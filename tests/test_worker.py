from __future__ import annotations

import pytest

from quorate.errors import RendezvousSettingsError
from quorate.worker import worker_store

TOLD = {"QUORATE_RUN_ID": "job", "QUORATE_EPOCH": "e", "QUORATE_ROUND": "0"}


def test_a_program_of_its_own_has_no_store() -> None:
    with pytest.raises(RendezvousSettingsError, match="Start this program with `quorate run`"):
        worker_store({})


def test_without_a_coordinator_the_backend_is_to_blame() -> None:
    with pytest.raises(RendezvousSettingsError, match="another --rdzv-backend than 'quorate'"):
        worker_store(TOLD)
