from __future__ import annotations

import inspect
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from quorate.api import RendezvousParameters
from quorate.config import (
    KEYS,
    PARAMETERS,
    check_keys,
    document,
    local_addr_from,
    parse_labels,
    parse_rendezvous_config,
    profile_from,
    read_timeout_from,
    settings_from,
)
from quorate.core.node import LABELS_MAX, NodeProfile
from quorate.core.settings import RANK_POLICIES, RendezvousSettings
from quorate.errors import RendezvousSettingsError
from quorate.identity import release

BUILT_IN = {"quorate", "c10d", "file", "memory", "static"}


def params(backend: str = "memory", **config: Any) -> RendezvousParameters:
    return RendezvousParameters(backend, "localhost", "run", 2, 3, **config)


def test_a_key_that_is_given_twice_is_refused() -> None:
    with pytest.raises(RendezvousSettingsError, match="'rank' is given twice, as '1' and as '2'"):
        parse_rendezvous_config("rank=1,slots=2,rank=2")


def test_the_page_is_what_the_table_says() -> None:
    page = Path(__file__).parents[1] / "docs" / "configuration.md"
    assert page.read_text() == document(), "run: python -m quorate.config > docs/configuration.md"


def test_every_key_is_described_once() -> None:
    names = [key.name for key in KEYS]
    assert len(set(names)) == len(names)
    assert all(key.backends and key.meaning.endswith(".") for key in KEYS)
    assert all(f"`{policy}`" in document() for policy in RANK_POLICIES)


def test_pairs_are_read() -> None:
    assert parse_rendezvous_config("") == {}
    assert parse_rendezvous_config(" a = 1 ,b=x=y") == {"a": "1", "b": "x=y"}


@pytest.mark.parametrize("text", ["=1", ",", "a=1,", "a", "a=", "a= ,b=1"])
def test_what_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(RendezvousSettingsError, match="must"):
        parse_rendezvous_config(text)


def test_an_unknown_key_is_refused_with_the_nearest_known() -> None:
    """R13"""
    with pytest.raises(RendezvousSettingsError, match=r"'join_timout'.*'join_timeout'"):
        check_keys({"join_timout": 1}, "quorate")
    with pytest.raises(RendezvousSettingsError, match="belongs to c10d"):
        check_keys({"store_type": "tcp"}, "static")
    with pytest.raises(RendezvousSettingsError, match="'xyzzy' is unknown"):
        check_keys({"xyzzy": 1}, "memory")


def test_backends_of_others_have_keys_of_their_own() -> None:
    check_keys({"xyzzy": 1}, "plugged-in")


@pytest.mark.parametrize("backend", sorted(BUILT_IN))
def test_what_torchrun_always_sends_is_known(backend: str) -> None:
    check_keys({"timeout": 900}, backend)


def test_defaults() -> None:
    assert settings_from(params()).agreed == RendezvousSettings("run", 2, 3).agreed
    assert profile_from(params(), {}) == NodeProfile(release=release())


def test_a_value_of_none_is_none_that_was_given() -> None:
    """As programs hand on what their own users did not set: no identity is called None."""
    nothing = params(**{key.name: None for key in KEYS})
    assert settings_from(nothing).agreed == settings_from(params()).agreed
    assert profile_from(nothing, {}) == profile_from(params(), {})
    assert local_addr_from(nothing) is None
    assert read_timeout_from(nothing, 7.5) == 7.5


def test_values_are_read() -> None:
    settings = settings_from(
        params(
            join_timeout="60",
            last_call_timeout=1.5,
            close_timeout=7,
            heartbeat_timeout="0.25",
            regroup_timeout=20,
            keep_alive_interval="0.5",
            keep_alive_max_attempt="4",
            reconnect_grace=3,
            rank_policy=" Sorted ",
        )
    )
    assert (settings.run_id, settings.min_nodes, settings.max_nodes) == ("run", 2, 3)
    timeout = settings.timeout
    seconds = [timeout.join, timeout.last_call, timeout.close, timeout.heartbeat, timeout.regroup]
    assert [value.total_seconds() for value in seconds] == [60, 1.5, 7, 0.25, 20]
    assert settings.keep_alive_interval == timedelta(seconds=0.5)
    assert settings.keep_alive_max_attempt == 4
    assert settings.reconnect_grace == timedelta(seconds=3)
    assert settings.rank_policy == "sorted"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("join_timeout", "soon"),
        ("join_timeout", "0"),
        ("last_call_timeout", "-1"),
        ("regroup_timeout", "nan"),
        ("close_timeout", "inf"),
        ("heartbeat_timeout", "1e300"),
        ("keep_alive_interval", "0"),
        ("keep_alive_max_attempt", "0"),
        ("keep_alive_max_attempt", "1.5"),
        ("keep_alive_max_attempt", 1.5),
        ("keep_alive_max_attempt", str(2**31)),
        ("keep_alive_max_attempt", "9" * 5000),
        ("keep_alive_max_attempt", math.inf),
        ("keep_alive_interval", 10**400),
        ("rank_policy", "best"),
    ],
)
def test_values_that_make_no_sense_are_refused(key: str, value: Any) -> None:
    with pytest.raises(RendezvousSettingsError):
        settings_from(params(**{key: value}))


def test_what_a_node_says_about_itself() -> None:
    given = params(node_id="n1", rank_hint="7", labels="block:3; zone : b ;", slots="8")
    labels = {"block": "3", "zone": "b"}
    assert profile_from(given, {}) == NodeProfile("n1", 7, labels, 0, 8, release=release())
    for bad in (
        {"slots": 0},
        {"slots": "many"},
        {"rank_hint": "x"},
        {"rank_hint": str(2**31)},
        {"labels": "block=3"},
        {"labels": ";".join(f"{number}:x" for number in range(LABELS_MAX + 1))},
        {"labels": "block:\udcff"},
        {"node_id": "\udcff"},
    ):
        with pytest.raises(RendezvousSettingsError):
            profile_from(params(**bad), {})


def test_labels_may_be_a_mapping() -> None:
    assert parse_labels({"block": "3"}) == {"block": "3"}
    assert parse_labels("") == {}


def test_the_schedulers_index_counts_if_the_policy_asks_for_it() -> None:
    """R3"""
    environment = {"SLURM_NODEID": "4", "GROUP_RANK": "nonsense"}
    assert profile_from(params(rank_policy="hint"), {"GROUP_RANK": "9" * 5000}).rank_hint is None
    assert profile_from(params(rank_policy="hint"), environment).rank_hint == 4
    assert profile_from(params(rank_policy="hint", rank_hint=0), environment).rank_hint == 0
    assert profile_from(params(), environment).rank_hint is None


def test_only_a_coordinator_asks_for_a_token() -> None:
    check_keys({"token_file": "x"}, "quorate")
    for backend in ("c10d", "etcd", "file", "static"):
        with pytest.raises(RendezvousSettingsError, match="it belongs to quorate"):
            check_keys({"token_file": "x"}, backend)


def test_a_local_address_that_cannot_be_sent_is_refused() -> None:
    with pytest.raises(RendezvousSettingsError, match=r"'local_addr' is .* not UTF-8"):
        local_addr_from(params(local_addr="\udcff"))


def test_all_that_is_no_configuration_has_a_flag() -> None:
    """It would come twice where parameters are made of the configuration."""
    given = inspect.signature(RendezvousParameters).parameters
    assert [*PARAMETERS, "kwargs"] == [*given]


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_has_a_flag_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(RendezvousSettingsError, match=f"'{name}' is no option .* --[-a-z]+"):
        parse_rendezvous_config(f"join_timeout=1,{name}=1")


def test_the_local_address_is_a_parameter() -> None:
    given = RendezvousParameters("memory", "", "run", 1, 1, local_addr="a")
    assert local_addr_from(given) == "a"
    assert local_addr_from(params()) is None
