"""What a run was started with, and the part of it on which all nodes must agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, ClassVar

import msgspec

from quorate.errors import RendezvousSettingsError

__all__ = [
    "NUMBER_MAX",
    "PROTOCOL_VERSION",
    "RANK_POLICIES",
    "TIMEOUT_MAX_S",
    "AgreedSettings",
    "RendezvousSettings",
    "RendezvousTimeout",
    "is_text",
]

PROTOCOL_VERSION = 1

# Numbers of nodes, ranks and attempts: no run has more, and every program can hold it.
NUMBER_MAX = 2**31 - 1

# No sane timeout is longer than three years, and times that are do not fit into a date.
TIMEOUT_MAX_S = 1e8

RANK_POLICIES = ("stable", "sorted", "hint", "topology")


def is_text(value: str) -> bool:
    """Return whether a text can be sent; what a program gets as bytes may not be UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class RendezvousTimeout:
    """How long the steps of a rendezvous may take.

    Args:
        join: From a node's call until its round is complete (default 600 s).
        last_call: How long a round that has enough nodes stays open for more (default 30 s).
        close: For a call to close the run to be stored (default 30 s).
        heartbeat: For one keep-alive to be stored (default 5 s).
        regroup: From the first member's return until members that are still missing lose their
            places (R10; default 60 s, because stopping workers takes up to 30).

    Raises:
        ValueError: A timeout is zero or negative.
    """

    _DEFAULTS: ClassVar[dict[str, timedelta]] = {
        "join": timedelta(seconds=600),
        "last_call": timedelta(seconds=30),
        "close": timedelta(seconds=30),
        "heartbeat": timedelta(seconds=5),
        "regroup": timedelta(seconds=60),
    }

    join: timedelta
    last_call: timedelta
    close: timedelta
    heartbeat: timedelta
    regroup: timedelta

    def __init__(
        self,
        join: timedelta | None = None,
        last_call: timedelta | None = None,
        close: timedelta | None = None,
        heartbeat: timedelta | None = None,
        regroup: timedelta | None = None,
    ) -> None:
        given = {
            "join": join,
            "last_call": last_call,
            "close": close,
            "heartbeat": heartbeat,
            "regroup": regroup,
        }
        for name, default in self._DEFAULTS.items():
            value = given[name]
            if value is None:
                value = default
            if value <= timedelta(0):
                raise ValueError(
                    f"The {name} timeout ({value.total_seconds():g} s) must be positive."
                )
            setattr(self, name, value)


@dataclass(frozen=True)
class RendezvousSettings:
    """The settings of one node's rendezvous.

    Args:
        run_id: The name of the run.
        min_nodes: A round never completes with fewer.
        max_nodes: A round never has more.
        timeout: How long each step may take.
        keep_alive_interval: How often a node says that it is alive.
        keep_alive_max_attempt: After this many silent intervals a node is lost (R8).
        rank_policy: One of `RANK_POLICIES` (R3).
        reconnect_grace: How long a node whose connection ended may take to come back (R8).
        node_unit: The size of a world is a multiple of this (R4).
        failures_max: A node that was lost, or left with a failure, as often as this within
            `failures_window` is kept out for `cool_down`; 0 for never.
        failures_window: How long a failure counts.
        cool_down: How long a node is kept out that has failed too often.

    Raises:
        RendezvousSettingsError: A value is out of range; it is a `ValueError` too.
    """

    run_id: str
    min_nodes: int
    max_nodes: int
    timeout: RendezvousTimeout = field(default_factory=RendezvousTimeout)
    keep_alive_interval: timedelta = timedelta(seconds=5)
    keep_alive_max_attempt: int = 3
    rank_policy: str = "stable"
    reconnect_grace: timedelta = timedelta(seconds=2)
    node_unit: int = 1
    failures_max: int = 0
    failures_window: timedelta = timedelta(seconds=600)
    cool_down: timedelta = timedelta(seconds=600)

    def __post_init__(self) -> None:
        if not self.run_id or not is_text(self.run_id):
            raise RendezvousSettingsError("The run id must be a non-empty string, in UTF-8.")
        if self.min_nodes < 1:
            raise RendezvousSettingsError(
                f"The minimum number of nodes ({self.min_nodes}) must be greater than zero."
            )
        if self.max_nodes < self.min_nodes:
            raise RendezvousSettingsError(
                f"The maximum number of nodes ({self.max_nodes}) must not be less than the "
                f"minimum number of nodes ({self.min_nodes})."
            )
        if max(self.max_nodes, self.keep_alive_max_attempt) > NUMBER_MAX:
            raise RendezvousSettingsError(
                f"The maximum number of nodes and the number of keep-alive attempts must be at "
                f"most {NUMBER_MAX}."
            )
        if self.keep_alive_interval <= timedelta(0) or self.keep_alive_max_attempt < 1:
            raise RendezvousSettingsError(
                f"The keep-alive interval ({self.keep_alive_interval}) and its number of attempts "
                f"({self.keep_alive_max_attempt}) must be positive."
            )
        if self.reconnect_grace < timedelta(0):
            raise RendezvousSettingsError(
                f"The reconnect grace ({self.reconnect_grace}) must not be negative."
            )
        self._require_whole_units()
        if self.failures_max < 0 or min(self.failures_window, self.cool_down) < timedelta(0):
            raise RendezvousSettingsError(
                f"The number of failures ({self.failures_max}), their window "
                f"({self.failures_window}) and the cool-down ({self.cool_down}) must not be "
                f"negative."
            )
        if self.rank_policy not in RANK_POLICIES:
            raise RendezvousSettingsError(
                f"The rank policy '{self.rank_policy}' is unknown: use one of "
                f"{', '.join(RANK_POLICIES)}."
            )

    def _require_whole_units(self) -> None:
        unit = self.node_unit
        if unit < 1:
            raise RendezvousSettingsError(f"The node unit ({unit}) must be greater than zero.")
        if self.min_nodes % unit or self.max_nodes % unit:
            raise RendezvousSettingsError(
                f"The minimum ({self.min_nodes}) and the maximum ({self.max_nodes}) number of "
                f"nodes must be multiples of the node unit ({unit})."
            )

    @property
    def beat_s(self) -> float:
        """Return how old, in seconds, a node's last word may be before it says another one (R11).

        It is half the keep-alive interval, so that a single beat may be late or lost.
        """
        return self.keep_alive_interval.total_seconds() / 2

    @property
    def beat_look_s(self) -> float:
        """Return how often, in seconds, a node of the direct way looks whether a beat is due.

        A word that was fresh at one look is said again at the next, three quarters of an interval
        after it: looking as seldom as beats are due, that could take the whole interval.
        """
        return self.beat_s / 2

    @property
    def silence_s(self) -> float:
        """Return how long, in seconds, a node may be silent before it is lost (R8)."""
        return self.keep_alive_interval.total_seconds() * self.keep_alive_max_attempt

    @cached_property
    def agreed(self) -> AgreedSettings:
        """The part of the settings that must be the same on every node (R13)."""
        return AgreedSettings(
            protocol_version=PROTOCOL_VERSION,
            min_nodes=self.min_nodes,
            max_nodes=self.max_nodes,
            join_timeout=self.timeout.join.total_seconds(),
            last_call_timeout=self.timeout.last_call.total_seconds(),
            regroup_timeout=self.timeout.regroup.total_seconds(),
            keep_alive_interval=self.keep_alive_interval.total_seconds(),
            keep_alive_max_attempt=self.keep_alive_max_attempt,
            rank_policy=self.rank_policy,
            reconnect_grace=self.reconnect_grace.total_seconds(),
            node_unit=self.node_unit,
            failures_max=self.failures_max,
            failures_window=self.failures_window.total_seconds(),
            cool_down=self.cool_down.total_seconds(),
        )


class AgreedSettings(msgspec.Struct, frozen=True):
    """The settings on which all nodes of a run agree, in seconds (R13).

    The field names are the configuration keys, so that a refusal names what to change.
    """

    protocol_version: int
    min_nodes: int
    max_nodes: int
    join_timeout: float
    last_call_timeout: float
    regroup_timeout: float
    keep_alive_interval: float
    keep_alive_max_attempt: int
    rank_policy: str
    reconnect_grace: float
    node_unit: int = 1
    failures_max: int = 0
    failures_window: float = 600.0
    cool_down: float = 600.0

    def require_same(self, run_id: str, own: AgreedSettings) -> None:
        """Refuse a node whose settings differ from the run's.

        Args:
            run_id: The name of the run, for the message.
            own: What the joining node was given.

        Raises:
            RendezvousSettingsError: It names every differing key with both values.
        """
        if self == own:
            return
        theirs: dict[str, Any] = msgspec.structs.asdict(self)
        ours: dict[str, Any] = msgspec.structs.asdict(own)
        differing = [
            f"{key} is {theirs[key]} in the run, {ours[key]} here"
            for key in theirs
            if theirs[key] != ours[key]
        ]
        raise RendezvousSettingsError(
            f"The settings of this node differ from those of the run '{run_id}': "
            f"{'; '.join(differing)}. Start all nodes of a run with the same settings."
        )

    def to_settings(self, run_id: str) -> RendezvousSettings:
        """Return the settings of a run that was agreed by others, as a coordinator needs them."""
        return RendezvousSettings(
            run_id=run_id,
            min_nodes=self.min_nodes,
            max_nodes=self.max_nodes,
            timeout=RendezvousTimeout(
                join=timedelta(seconds=self.join_timeout),
                last_call=timedelta(seconds=self.last_call_timeout),
                regroup=timedelta(seconds=self.regroup_timeout),
            ),
            keep_alive_interval=timedelta(seconds=self.keep_alive_interval),
            keep_alive_max_attempt=self.keep_alive_max_attempt,
            rank_policy=self.rank_policy,
            reconnect_grace=timedelta(seconds=self.reconnect_grace),
            node_unit=self.node_unit,
            failures_max=self.failures_max,
            failures_window=timedelta(seconds=self.failures_window),
            cool_down=timedelta(seconds=self.cool_down),
        )
