"""Every configuration key, in one table: it is what is checked, read and documented.

The names that PyTorch's rendezvous knows keep their meaning. `python -m quorate.config` prints
`docs/configuration.md`.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from quorate.api import RendezvousParameters
from quorate.core.node import LABELS_MAX, NodeProfile
from quorate.core.settings import (
    NUMBER_MAX,
    TIMEOUT_MAX_S,
    RendezvousSettings,
    RendezvousTimeout,
    is_text,
)
from quorate.errors import RendezvousSettingsError
from quorate.identity import release

__all__ = [
    "KEYS",
    "PARAMETERS",
    "ConfigurationKey",
    "check_keys",
    "document",
    "local_addr_from",
    "parse_labels",
    "parse_rendezvous_config",
    "profile_from",
    "read_timeout_from",
    "settings_from",
]

T = TypeVar("T")

COORDINATED = ("quorate",)
DIRECT = ("c10d", "file", "memory", "etcd-v2")
DYNAMIC = (*COORDINATED, *DIRECT)
ETCD = ("etcd",)
ON_ETCD = ("etcd", "etcd-v2")
# What only those know that run workers; handlers do not.
LAUNCHERS = ("quorate run", "torchrun")
EVERY = (*DYNAMIC, "static", *ETCD)

SECONDS = "seconds"
WHOLE_NUMBER = "whole number"
YES_OR_NO = "yes or no"
TEXT = "text"

# Where schedulers leave the index of a node; the first one that is set counts.
RANK_HINT_VARIABLES = ("GROUP_RANK", "SLURM_NODEID")

# With fewer digits than this a scheduler's index is one.
NUMBER_DIGITS = len(str(NUMBER_MAX))

# What `RendezvousParameters` takes beside the configuration, and the flag of `quorate run` for it.
PARAMETERS = {
    "backend": "--rdzv-backend",
    "endpoint": "--rdzv-endpoint",
    "run_id": "--rdzv-id",
    "min_nodes": "--nnodes",
    "max_nodes": "--nnodes",
    "local_addr": "--local-addr",
}


@dataclass(frozen=True)
class ConfigurationKey:
    """One key of the configuration.

    Args:
        name: What the user writes.
        kind: What its value is: seconds, a whole number, yes or no, or text.
        default: What counts if it is not given, for people.
        backends: The kinds of rendezvous that know it.
        meaning: What it decides, for people.
    """

    name: str
    kind: str
    default: str
    backends: tuple[str, ...]
    meaning: str


KEYS: tuple[ConfigurationKey, ...] = (
    ConfigurationKey(
        "join_timeout",
        SECONDS,
        "600",
        (*DYNAMIC, *ETCD),
        "How long a node waits for its round to be complete.",
    ),
    ConfigurationKey(
        "last_call_timeout",
        SECONDS,
        "30",
        (*DYNAMIC, *ETCD),
        "How long a round that has the minimum of nodes stays open for more.",
    ),
    ConfigurationKey(
        "close_timeout",
        SECONDS,
        "30",
        (*DYNAMIC, *ETCD),
        "How long it may take to tell the others how this node ended: that the run is closed, as "
        "succeeded or failed, that the node has finished, or that it stays out.",
    ),
    ConfigurationKey(
        "heartbeat_timeout", SECONDS, "5", (*DYNAMIC, *ETCD), "How long one keep-alive may take."
    ),
    ConfigurationKey(
        "regroup_timeout",
        SECONDS,
        "60",
        (*DYNAMIC, *ETCD),
        "How long, after the first node came back to regroup, the places of the others are kept.",
    ),
    ConfigurationKey(
        "keep_alive_interval",
        SECONDS,
        "5",
        (*DYNAMIC, *ETCD),
        "How often a node says that it is alive.",
    ),
    ConfigurationKey(
        "keep_alive_max_attempt",
        WHOLE_NUMBER,
        "3",
        (*DYNAMIC, *ETCD),
        "After how many silent keep-alive intervals a node is lost.",
    ),
    ConfigurationKey(
        "reconnect_grace",
        SECONDS,
        "2",
        DYNAMIC,
        "How long a node whose connection has ended may take to come back before it is lost. "
        "Without a coordinator there are no connections, and it has no effect.",
    ),
    ConfigurationKey(
        "node_unit",
        WHOLE_NUMBER,
        "1",
        (*DYNAMIC, *ETCD),
        "The numbers of nodes that a world may have: multiples of this. Who does not fill a unit "
        "waits as a spare.",
    ),
    ConfigurationKey(
        "failures_max",
        WHOLE_NUMBER,
        "0 (never)",
        COORDINATED,
        "A node that was lost, or left with a failure, this often within `failures_window` is kept "
        "out of the run for `cool_down`; by its `node_id`, or its address if it has none.",
    ),
    ConfigurationKey(
        "failures_window", SECONDS, "600", COORDINATED, "How long a failure of a node counts."
    ),
    ConfigurationKey(
        "cool_down",
        SECONDS,
        "600",
        COORDINATED,
        "How long a node is kept out that has failed too often.",
    ),
    ConfigurationKey(
        "rank_policy",
        TEXT,
        "`stable`",
        (*DYNAMIC, *ETCD),
        "Who gets which rank: `stable` (nodes keep theirs), `sorted` (by address), `hint` (by "
        "`rank_hint`), `topology` (nodes with the same label `block` side by side).",
    ),
    ConfigurationKey(
        "rank_hint",
        WHOLE_NUMBER,
        " or ".join(f"`${name}`" for name in RANK_HINT_VARIABLES),
        (*DYNAMIC, *ETCD),
        "The index that a scheduler gave this node, for the rank policy `hint`.",
    ),
    ConfigurationKey(
        "labels",
        TEXT,
        "none",
        (*DYNAMIC, *ETCD),
        "What is known about this node, as in `block:7;zone:b`.",
    ),
    ConfigurationKey(
        "node_id",
        TEXT,
        "none",
        (*DYNAMIC, *ETCD),
        "An identity that outlives the process: a node that comes with the id of another one "
        "replaces it at once.",
    ),
    ConfigurationKey(
        "slots", WHOLE_NUMBER, "1", (*DYNAMIC, "static", *ETCD), "How many workers this node runs."
    ),
    ConfigurationKey(
        "is_host",
        YES_OR_NO,
        "found out",
        (*COORDINATED, "c10d"),
        "Whether this node starts what the others connect to. By default it does if the endpoint "
        "is an address of its machine and nobody else there has done so.",
    ),
    ConfigurationKey(
        "state_dir",
        TEXT,
        "the user's state folder",
        COORDINATED,
        "Where a coordinator that this node starts keeps its journal.",
    ),
    ConfigurationKey(
        "token_file",
        TEXT,
        "`$QUORATE_TOKEN_FILE`, or the secret in `$QUORATE_TOKEN`",
        COORDINATED,
        "The file of the secret that this node and the coordinator must both know. A coordinator "
        "that this node starts asks for it.",
    ),
    ConfigurationKey(
        "tls",
        YES_OR_NO,
        "yes if another key of TLS is given",
        COORDINATED,
        "Whether the connection to the coordinator is secured by TLS.",
    ),
    ConfigurationKey(
        "tls_ca_file",
        TEXT,
        "the system's",
        COORDINATED,
        "The file of the authority (PEM) that must have signed the coordinator's certificate. A "
        "coordinator that this node starts lets in only who has a certificate of it too.",
    ),
    ConfigurationKey(
        "tls_cert_file",
        TEXT,
        "none",
        COORDINATED,
        "The file of this node's certificate (PEM): shown to a coordinator that asks for one, and "
        "used by a coordinator that this node starts.",
    ),
    ConfigurationKey(
        "tls_key_file",
        TEXT,
        "in `tls_cert_file`",
        COORDINATED,
        "The file of its private key (PEM, not encrypted).",
    ),
    ConfigurationKey(
        "health_check",
        TEXT,
        "none",
        LAUNCHERS,
        "A command, without commas, that is run before each join, without a shell. Unless it exits "
        "with 0 the node stays out of the run, and tries again until `join_timeout` is over. With "
        "every kind of rendezvous; with `static` the others wait for the node.",
    ),
    ConfigurationKey(
        "health_check_timeout", SECONDS, "30", LAUNCHERS, "How long the health check may take."
    ),
    ConfigurationKey(
        "local_addr",
        TEXT,
        "found out",
        (*DYNAMIC, *ETCD),
        "The address at which the other nodes reach this one. On the command line it is given with "
        "`--local-addr`, and not with `--rdzv-conf`.",
    ),
    ConfigurationKey(
        "store_type",
        TEXT,
        "`tcp`",
        ("c10d",),
        "The kind of PyTorch store: `tcp` or `file`. torchrun may give `tcp` to `quorate` as well.",
    ),
    ConfigurationKey(
        "read_timeout",
        SECONDS,
        "60",
        ("c10d", *ON_ETCD),
        "How long one exchange with the store may take; with `etcd-v2` no longer than the timeout "
        "of what it is for, and 3 s to leave. torchrun may give it to `quorate` as well: there it "
        "is how long a call of a round's store waits for a key, by default 300.",
    ),
    ConfigurationKey(
        "rank", WHOLE_NUMBER, "required", ("static",), "The rank of this node, from 0."
    ),
    ConfigurationKey(
        "timeout",
        SECONDS,
        "600",
        EVERY,
        "`static`: how long to wait for the other nodes. `etcd`: how long to wait for a round. "
        "torchrun sends it to every backend; the others use `join_timeout`.",
    ),
    ConfigurationKey(
        "protocol", TEXT, "`http`", ON_ETCD, "How etcd is spoken to: `http` or `https`."
    ),
    ConfigurationKey(
        "etcd_prefix",
        TEXT,
        "`/torchelastic/p2p` (`etcd`), `/torch/elastic/rendezvous` (`etcd-v2`)",
        ON_ETCD,
        "Below what in etcd runs are kept.",
    ),
    ConfigurationKey("ssl_cert", TEXT, "none", ON_ETCD, "The file of the client's certificate."),
    ConfigurationKey(
        "ssl_cert_key", TEXT, "none", ON_ETCD, "The file of the client's private key."
    ),
    ConfigurationKey(
        "ca_cert", TEXT, "the system's", ON_ETCD, "The file of the certificates to trust."
    ),
    ConfigurationKey("cert", TEXT, "none", ON_ETCD, "Another name of `ssl_cert`."),
    ConfigurationKey("key", TEXT, "none", ON_ETCD, "Another name of `ssl_cert_key`."),
    ConfigurationKey("cacert", TEXT, "none", ON_ETCD, "Another name of `ca_cert`."),
    ConfigurationKey("user", TEXT, "none", ON_ETCD, "The user of etcd, where it wants to know."),
    ConfigurationKey(
        "password_file", TEXT, "none", ON_ETCD, "The file that holds the user's password."
    ),
)


def parse_rendezvous_config(text: str) -> dict[str, str]:
    """Read `key=value,key=value`, the form that `--rdzv-conf` takes.

    Raises:
        RendezvousSettingsError: The text is not of that form, or names what has a flag of its own;
            it is a `ValueError` too.
    """
    config: dict[str, str] = {}
    if not text.strip():
        return config
    for entry in text.split(","):
        key, _, value = (part.strip() for part in entry.partition("="))
        if not key:
            raise RendezvousSettingsError(
                f"The rendezvous configuration '{text}' must be in the format "
                f"<key1>=<value1>,...,<keyN>=<valueN>."
            )
        if not value:
            raise RendezvousSettingsError(
                f"The rendezvous configuration option '{key}' must have a value specified, as in "
                f"{key}=<value>."
            )
        if key in PARAMETERS:
            raise RendezvousSettingsError(
                f"'{key}' is no option of the rendezvous configuration: `quorate run` takes it as "
                f"{PARAMETERS[key]}."
            )
        if key in config:
            raise RendezvousSettingsError(
                f"The rendezvous configuration option '{key}' is given twice, as '{config[key]}' "
                f"and as '{value}': give it once."
            )
        config[key] = value
    return config


def check_keys(config: Iterable[str], backend: str) -> None:
    """Refuse keys that a backend of the table does not know (R13); other backends have their own.

    Args:
        config: The keys that were given.
        backend: The name of the kind of rendezvous.

    Raises:
        RendezvousSettingsError: The first unknown key, with the nearest known one.
    """
    known = [key.name for key in KEYS if backend in key.backends]
    if not known:
        return
    for name in config:
        if name not in known:
            raise RendezvousSettingsError(
                f"The configuration option '{name}' is unknown to the rendezvous backend "
                f"'{backend}'{_hint(name, known)}. `python -m quorate.config` lists all of them."
            )


def settings_from(params: RendezvousParameters) -> RendezvousSettings:
    """Return the settings of a run as its parameters ask for them.

    Raises:
        RendezvousSettingsError: A value is of the wrong kind or out of range.
    """
    defaults = RendezvousSettings(params.run_id, params.min_nodes, params.max_nodes)
    return RendezvousSettings(
        run_id=params.run_id,
        min_nodes=params.min_nodes,
        max_nodes=params.max_nodes,
        timeout=_timeouts(params),
        keep_alive_interval=_duration(params, "keep_alive_interval", defaults.keep_alive_interval),
        keep_alive_max_attempt=_whole_number(
            params, "keep_alive_max_attempt", defaults.keep_alive_max_attempt, least=1
        ),
        rank_policy=params.get_as_text("rank_policy", defaults.rank_policy).lower(),
        reconnect_grace=_duration(params, "reconnect_grace", defaults.reconnect_grace),
        node_unit=_whole_number(params, "node_unit", defaults.node_unit, least=1),
        failures_max=_whole_number(params, "failures_max", defaults.failures_max, least=0),
        failures_window=_duration(params, "failures_window", defaults.failures_window),
        cool_down=_duration(params, "cool_down", defaults.cool_down),
    )


def profile_from(
    params: RendezvousParameters, environment: Mapping[str, str] = os.environ
) -> NodeProfile:
    """Return what a node says about itself, as its parameters and its scheduler have it.

    Args:
        params: The parameters of the node.
        environment: Where a scheduler's index is looked for if the rank policy asks for one.

    Raises:
        RendezvousSettingsError: A value is of the wrong kind.
    """
    rank_hint = params.get_as_int("rank_hint")
    if rank_hint is None and params.get_as_text("rank_policy").lower() == "hint":
        rank_hint = _scheduler_index(environment)
    return NodeProfile(
        node_id=_sendable("node_id", params.get_as_text("node_id")),
        rank_hint=rank_hint,
        labels=parse_labels(_sendable("labels", params.get("labels") or "")),
        slots=_whole_number(params, "slots", 1, least=1),
        release=release(),
    )


def local_addr_from(params: RendezvousParameters) -> str | None:
    """Return the address that the user wants the node to advertise, `None` if none was given."""
    return params.local_addr and _sendable("local_addr", params.local_addr)


def read_timeout_from(params: RendezvousParameters, default_s: float) -> float:
    """Return how long one exchange with a store may take, in seconds: `read_timeout`.

    Raises:
        RendezvousSettingsError: The value is no number of seconds above zero.
    """
    timeout = _duration(params, "read_timeout", timedelta(seconds=default_s))
    if timeout <= timedelta():
        raise RendezvousSettingsError(
            f"The configuration option 'read_timeout' is '{params.get('read_timeout')}': it must "
            f"be more than 0 seconds."
        )
    return timeout.total_seconds()


def parse_labels(labels: str | Mapping[str, str]) -> dict[str, str]:
    """Read labels: a mapping, or text such as `block:7;zone:b`.

    Raises:
        RendezvousSettingsError: An entry is not of the form name:value, or there are too many.
    """
    parsed = dict(labels) if isinstance(labels, Mapping) else _labels_in(labels)
    if len(parsed) > LABELS_MAX:
        raise RendezvousSettingsError(
            f"A node may have {LABELS_MAX} labels, and {len(parsed)} were given: give it fewer."
        )
    return parsed


def _labels_in(text: str) -> dict[str, str]:
    parsed: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        name, _, value = (part.strip() for part in entry.partition(":"))
        if not name or not value:
            raise RendezvousSettingsError(
                f"The label '{entry}' must be written as name:value; several labels are separated "
                f"by semicolons."
            )
        parsed[name] = value
    return parsed


def document() -> str:
    """Return `docs/configuration.md`: the table, for people."""
    rows = [
        "# Configuration",
        "",
        "The keys that `--rdzv-conf` and `RendezvousParameters` take, as in",
        "`--rdzv-conf join_timeout=120,rank_policy=sorted`. A key that its backend does not know",
        "is refused. Seconds may have fractions. The same timeouts, rank policy and numbers of",
        "nodes must be given to all nodes of a run.",
        "",
        "This page is printed by `python -m quorate.config`.",
        "",
        "| key | value | default | backends | meaning |",
        "|---|---|---|---|---|",
    ]
    for key in KEYS:
        backends = "all" if key.backends == EVERY else ", ".join(key.backends)
        rows.append(f"| `{key.name}` | {key.kind} | {key.default} | {backends} | {key.meaning} |")
    return "\n".join([*rows, ""])


def _sendable(key: str, value: T) -> T:
    if not is_text(str(value)):
        raise RendezvousSettingsError(
            f"The configuration option '{key}' is {value!a}, which is not UTF-8."
        )
    return value


def _hint(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    if nearest:
        return f" (did you mean '{nearest[0]}'?)"
    elsewhere = [", ".join(key.backends) for key in KEYS if key.name == name]
    return f"; it belongs to {elsewhere[0]}" if elsewhere else ""


def _timeouts(params: RendezvousParameters) -> RendezvousTimeout:
    defaults = RendezvousTimeout()
    names = ("join", "last_call", "close", "heartbeat", "regroup")
    given = {name: _duration(params, f"{name}_timeout", getattr(defaults, name)) for name in names}
    try:
        return RendezvousTimeout(**given)
    except ValueError as error:
        raise RendezvousSettingsError(str(error)) from error


def _duration(params: RendezvousParameters, key: str, default: timedelta) -> timedelta:
    seconds = params.get_as_float(key)
    if seconds is None:
        return default
    if not math.isfinite(seconds) or abs(seconds) > TIMEOUT_MAX_S:
        raise RendezvousSettingsError(
            f"The configuration option '{key}' is '{seconds}', which is not a reasonable number "
            f"of seconds: {TIMEOUT_MAX_S:g} at most."
        )
    return timedelta(seconds=seconds)


def _whole_number(params: RendezvousParameters, key: str, default: int, least: int) -> int:
    value = params.get_as_int(key, default)
    if value is None or value < least:
        raise RendezvousSettingsError(
            f"The configuration option '{key}' is '{value}': it must be at least {least}."
        )
    return value


def _scheduler_index(environment: Mapping[str, Any]) -> int | None:
    for name in RANK_HINT_VARIABLES:
        value = environment.get(name, "")
        if value.isascii() and value.isdigit() and len(value) < NUMBER_DIGITS:
            return int(value)
    return None


if __name__ == "__main__":
    print(document(), end="")
