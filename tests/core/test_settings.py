from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from quorate.core.settings import RANK_POLICIES, RendezvousSettings, RendezvousTimeout
from quorate.errors import RendezvousSettingsError
from tests.core.support import make_settings

IN_RANGE: dict[str, Any] = {"run_id": "run", "min_nodes": 1, "max_nodes": 8}


def test_init_initializes_timeout() -> None:
    timeout = RendezvousTimeout(
        join=timedelta(seconds=50),
        last_call=timedelta(seconds=60),
        close=timedelta(seconds=70),
        heartbeat=timedelta(seconds=80),
        regroup=timedelta(seconds=90),
    )
    assert timeout.join == timedelta(seconds=50)
    assert timeout.last_call == timedelta(seconds=60)
    assert timeout.close == timedelta(seconds=70)
    assert timeout.heartbeat == timedelta(seconds=80)
    assert timeout.regroup == timedelta(seconds=90)


def test_init_initializes_timeout_if_no_timeout_is_specified() -> None:
    timeout = RendezvousTimeout()
    assert timeout.join == timedelta(seconds=600)
    assert timeout.last_call == timedelta(seconds=30)
    assert timeout.close == timedelta(seconds=30)
    assert timeout.heartbeat == timedelta(seconds=5)
    assert timeout.regroup == timedelta(seconds=60)


@pytest.mark.parametrize("name", ["join", "last_call", "close", "heartbeat", "regroup"])
@pytest.mark.parametrize("value", [timedelta(0), timedelta(seconds=-1)])
def test_init_raises_error_if_timeout_is_not_positive(name: str, value: timedelta) -> None:
    told = rf"^The {name} timeout \({value.total_seconds():g} s\) must be positive\.$"
    with pytest.raises(ValueError, match=told):
        RendezvousTimeout(**{name: value})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"run_id": ""}, "run id"),
        ({"run_id": "\udcff"}, "UTF-8"),
        ({"max_nodes": 2**31}, "at most 2147483647"),
        ({"keep_alive_max_attempt": 2**31}, "at most 2147483647"),
        ({"min_nodes": 0}, r"\(0\) must be greater than zero"),
        ({"min_nodes": -2}, r"\(-2\)"),
        ({"min_nodes": 4, "max_nodes": 3}, r"\(3\) must not be less than .*\(4\)"),
        ({"keep_alive_interval": timedelta(0)}, "keep-alive interval"),
        ({"keep_alive_max_attempt": 0}, "attempts"),
        ({"rank_policy": "alphabetic"}, "'alphabetic' is unknown: use one of stable"),
        ({"reconnect_grace": timedelta(seconds=-1)}, "reconnect grace"),
    ],
)
def test_a_value_out_of_range_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RendezvousSettingsError, match=named):
        RendezvousSettings(**(IN_RANGE | changes))


def test_a_node_is_lost_after_its_attempts() -> None:
    """R8"""
    settings = make_settings(
        keep_alive_interval=timedelta(milliseconds=1500), keep_alive_max_attempt=4
    )
    assert settings.silence_s == 6.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_nodes": 1}, "min_nodes is 2 in the run, 1 here"),
        ({"max_nodes": 9}, "max_nodes is 3 in the run, 9 here"),
        ({"timeout": RendezvousTimeout(join=timedelta(seconds=7))}, "join_timeout is 600.0"),
        ({"timeout": RendezvousTimeout(last_call=timedelta(seconds=7))}, "last_call_timeout"),
        ({"timeout": RendezvousTimeout(regroup=timedelta(seconds=7))}, "regroup_timeout"),
        ({"keep_alive_interval": timedelta(seconds=7)}, "keep_alive_interval is 5.0"),
        ({"keep_alive_max_attempt": 7}, "keep_alive_max_attempt is 3 in the run, 7 here"),
        ({"rank_policy": "hint"}, "rank_policy is stable in the run, hint here"),
        ({"reconnect_grace": timedelta(seconds=7)}, "reconnect_grace is 2.0 in the run, 7.0 here"),
    ],
)
def test_settings_that_differ_are_refused_with_both_values(
    changes: dict[str, Any], said: str
) -> None:
    """R13"""
    own = make_settings(**changes).agreed
    with pytest.raises(RendezvousSettingsError) as refused:
        make_settings().agreed.require_same("run", own)
    assert said in str(refused.value)
    assert str(refused.value).count(" here") == 1, "more was named than what differs"


def test_every_differing_setting_is_named() -> None:
    """R13"""
    own = make_settings(min_nodes=1, max_nodes=5).agreed
    with pytest.raises(RendezvousSettingsError, match=r"min_nodes is 2.*; max_nodes is 3"):
        make_settings().agreed.require_same("run", own)


def test_settings_that_nobody_must_agree_on_are_not_compared() -> None:
    """R13: how long a node waits for its own close or heartbeat is its own affair."""
    timeout = RendezvousTimeout(close=timedelta(seconds=1), heartbeat=timedelta(seconds=1))
    RendezvousSettings("run", 2, 3).agreed.require_same(
        "run", RendezvousSettings("run", 2, 3, timeout=timeout).agreed
    )


@pytest.mark.parametrize("policy", RANK_POLICIES)
def test_a_coordinator_has_the_settings_of_the_nodes(policy: str) -> None:
    """R13"""
    agreed = make_settings(rank_policy=policy, reconnect_grace=timedelta(seconds=3)).agreed
    assert agreed.to_settings("run").agreed == agreed
