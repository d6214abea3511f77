from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from quorate.api import RendezvousInfo, RendezvousStoreInfo
from quorate.core.state import Place
from quorate.credentials import FILE_VARIABLE, VARIABLE
from quorate.errors import RendezvousSettingsError
from quorate.launch.spec import WorkerSpec, loss_window_s, place_of, worker_environment
from quorate.tls import TlsFiles

# The second of two nodes, the first of which runs three workers and this one two.
PLACE = Place("e1", 4, 1, 2, "digest", "node1", 29501, 3, 5)


def a_spec(**changes: Any) -> WorkerSpec:
    given: dict[str, Any] = {"command": ("train",), "workers": 2, "run_id": "job", **changes}
    return WorkerSpec(**given)


@pytest.mark.parametrize(("grace_s", "window_s"), [(0.0, 3.0), (2.0, 3.0), (8.0, 9.0)])
def test_r8_a_loss_is_awaited_for_as_long_as_it_takes_to_be_told(
    grace_s: float, window_s: float
) -> None:
    assert loss_window_s(grace_s) == window_s


def test_the_environment_is_exactly_this() -> None:
    spec = a_spec(environment={"HOME": "/h"}, endpoint="c:29400", max_restarts=7)
    assert worker_environment(spec, PLACE, None, 1, 2, use_agent_store=False) == {
        "HOME": "/h",
        "PYTHONUNBUFFERED": "1",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "OMP_NUM_THREADS": "1",
        "RANK": "4",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "5",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
        "ROLE_RANK": "4",
        "ROLE_WORLD_SIZE": "5",
        "ROLE_NAME": "default",
        "MASTER_ADDR": "node1",
        "MASTER_PORT": "29501",
        "TORCHELASTIC_RESTART_COUNT": "2",
        "TORCHELASTIC_MAX_RESTARTS": "7",
        "TORCHELASTIC_RUN_ID": "job",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "QUORATE_RUN_ID": "job",
        "QUORATE_EPOCH": "e1",
        "QUORATE_ROUND": "4",
        "QUORATE_RANK": "1",
        "QUORATE_ENDPOINT": "c:29400",
    }


def test_the_page_names_all_that_workers_are_told() -> None:
    page = Path(__file__).parents[2] / "docs" / "migrating.md"
    section = page.read_text().partition("## What workers are told\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = [name for row in rows for name in re.findall("`([A-Z_]+)`", row)]
    given = TlsFiles.environment(TlsFiles("ca", "cert", "key"))
    spec = a_spec(endpoint="c:29400", environment=given)
    told = worker_environment(spec, PLACE, None, 0, 0, False, Path("/error"))
    assert sorted(documented) == sorted({*told, VARIABLE, FILE_VARIABLE})


def test_the_bootstrap_store_goes_before_the_leader() -> None:
    environment = worker_environment(a_spec(), PLACE, RendezvousStoreInfo("other", 5), 0, 0, True)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("other", "5")
    assert environment["TORCHELASTIC_USE_AGENT_STORE"] == "True"


def test_a_single_worker_may_use_all_threads() -> None:
    assert "OMP_NUM_THREADS" not in worker_environment(a_spec(workers=1), PLACE, None, 0, 0, False)


def test_what_the_user_has_set_stays_unless_the_agent_must_say_it() -> None:
    nccl = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "3"}
    given = {"OMP_NUM_THREADS": "8", "PYTHONUNBUFFERED": "", "RANK": "99", **nccl}
    environment = worker_environment(a_spec(environment=given), PLACE, None, 0, 0, False)
    assert environment["OMP_NUM_THREADS"] == "8"
    assert environment["PYTHONUNBUFFERED"] == ""
    assert environment["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "3"
    assert environment["RANK"] == "3"


def test_a_worker_records_its_error_in_a_file_of_its_own_or_in_none() -> None:
    spec = a_spec(environment={"TORCHELASTIC_ERROR_FILE": "/the/agents/own"})
    environment = worker_environment(spec, PLACE, None, 1, 0, False, Path("/its/own"))
    assert environment["TORCHELASTIC_ERROR_FILE"] == "/its/own"
    assert "TORCHELASTIC_ERROR_FILE" not in worker_environment(spec, PLACE, None, 1, 0, False)


def test_the_place_is_the_one_of_the_record() -> None:
    assert place_of(RendezvousInfo(None, 1, 2, None, PLACE), a_spec()) is PLACE


def test_without_a_record_the_place_follows_from_rank_and_size() -> None:
    info = RendezvousInfo(None, 2, 3, RendezvousStoreInfo("leader", 7))
    place = place_of(info, a_spec(workers=4))
    assert (place.rank, place.size, place.first_worker, place.workers) == (2, 3, 8, 12)
    assert (place.leader_addr, place.leader_port) == ("leader", 7)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"command": ()}, "no program"),
        ({"workers": 0}, "workers per node"),
        ({"max_restarts": -1}, "restarts"),
        ({"monitor_interval_s": 0}, "monitor interval"),
        ({"stop_grace_s": -1}, "stop_grace_s"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RendezvousSettingsError, match=told):
        a_spec(**changes)
