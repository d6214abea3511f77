"""`quorate bench`: measures coordinators under a load of many agents, side by side with others."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from quorate.bench.campaign import measure
from quorate.bench.figures import document
from quorate.bench.machine import machine
from quorate.bench.measuring import Options
from quorate.bench.subjects import BACKENDS
from quorate.bench.table import format_table
from quorate.cli.common import CONTEXT_SETTINGS, Seconds, tls_options, token_option
from quorate.coordinator.engine import engine
from quorate.credentials import exported, token_from
from quorate.terminal import LiveLine
from quorate.tls import TlsFiles

__all__ = ["command"]

Command = TypeVar("Command", bound=Callable[..., Any])

NODES_MAX = 20_000

# As many as a coordinator lets into a run.
SIMULATED_MAX = engine.NODES_MAX


@click.group("bench", context_settings=CONTEXT_SETTINGS)
def command() -> None:
    """Measure coordinators of this machine.

    Servers and load are processes apart, started anew for each sample. Figures depend on the
    machine and on what else it does: compare figures of one run only, in which backends are
    measured in turn.
    """


# Generic from click 8.4 on only, where mypy asks what of.
class _Sizes(click.ParamType):  # type: ignore[type-arg]
    """Numbers of nodes: `8,64,256`.

    Args:
        least: The least number.
        most: The greatest.
    """

    name = "N[,N...]"

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the numbers."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        are_numbers = all(re.fullmatch("[0-9]{1,9}", part) for part in parts)
        sizes = tuple(map(int, parts)) if are_numbers else ()
        each_once = len(set(sizes)) == len(parts)
        if not each_once or not all(self._least <= n <= self._most for n in sizes):
            limits = f"each from {self._least} to {self._most}, and once"
            self.fail(f"'{value}' is not N[,N...], {limits}.", param, ctx)
        return sizes


def _seconds(flag: str, name: str, default: float, help_text: str) -> Callable[[Any], Any]:
    """Return an option that takes a time above zero."""
    return click.option(
        flag,
        name,
        default=default,
        show_default=True,
        type=Seconds(above=True),
        metavar="SECONDS",
        help=help_text,
    )


def _count(
    flag: str, most: int, default: int | None = None, help_text: str | None = None
) -> Callable[[Any], Any]:
    """Return an option that takes a number from one on."""
    return click.option(
        flag,
        default=default,
        show_default=default is not None,
        type=click.IntRange(min=1, max=most),
        help=help_text,
    )


def _common_options(repeat: int, sizes: _Sizes) -> Callable[[Command], Command]:
    """Return the options that all benchmarks have; `repeat` is the default."""
    return _all_of(
        click.option("--nodes", "sizes", default="1000", show_default=True, type=sizes),
        click.option(
            "--backend",
            "backends",
            multiple=True,
            default=("quorate",),
            metavar="NAME|URL",
            help=f"What is measured, and compared with the first; may be given several times. "
            f"[default: quorate] {BACKENDS}.",
        ),
        _count("--repeat", 100, repeat),
        _seconds("--limit", "limit_s", 300.0, "How long a step may take."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    )


def _shared_options(repeat: int) -> Callable[[Command], Command]:
    """Return the options of all benchmarks that put load on servers; `repeat` is the default."""
    return _all_of(
        _common_options(repeat, _Sizes(1, NODES_MAX)),
        click.option("--backend-conf", default="", metavar="KEY=VALUE,...", help="To reach etcd."),
        _count(
            "--load-processes",
            256,
            help_text="How many processes hold the agents. Default: as many as there are cores "
            "for, with a thousand agents each.",
        ),
        token_option("The file of a secret that coordinators and agents use."),
        tls_options,
    )


def _all_of(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def add(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@command.command("join")
@_shared_options(repeat=5)
@click.option(
    "--connected", is_flag=True, help="Connect before: time the join on open connections."
)
def join(connected: bool, **shared: Any) -> None:
    """Time a cold join: from the first connection to the last agent's answer."""
    _run("join", shared, connected=connected)


@command.command("regroup")
@_shared_options(repeat=3)
def regroup(**shared: Any) -> None:
    """Kill one of N agents: time until the others are told, and until they have a new world."""
    _run("regroup", shared)


@command.command("steady")
@_shared_options(repeat=1)
@_seconds("--period", "period_s", 20.0, "How long is watched.")
def steady(period_s: float, **shared: Any) -> None:
    """Watch what N agents cost that have nothing to do: CPU, bytes, memory, writes."""
    _run("steady", shared, period_s=period_s)


@command.command("store")
@_shared_options(repeat=3)
@_count("--operations", 10_000, 20, "How many of each kind an agent does, one after another.")
def store(operations: int, **shared: Any) -> None:
    """Let N agents set, get, wait for and add to keys of their round's store."""
    _run("store", shared, operations=operations)


@command.command("reattach")
@_shared_options(repeat=3)
def reattach(**shared: Any) -> None:
    """Kill the coordinator under N agents: time until all are attached to its next life."""
    _run("reattach", shared)


@command.command("simulate")
@_common_options(1, _Sizes(2, SIMULATED_MAX))
def simulate(**shared: Any) -> None:
    """Play N agents in virtual time, without sockets: for sizes that no machine here can serve.

    The coordinator's engine, journal and messages are the real ones; figures are its CPU time
    without that of the kernel and of the event loop, messages, bytes and memory.
    """
    _measure("simulate", shared, Options(limit_s=shared["limit_s"]), "", {})


def _run(bench: str, shared: dict[str, Any], **own: Any) -> None:
    options = Options(
        limit_s=shared["limit_s"],
        load_processes=shared["load_processes"],
        environment=exported(token_from(shared["token_file"]), os.environ)
        | TlsFiles.environment(shared["tls"]),
        **own,
    )
    _measure(bench, shared, options, shared["backend_conf"], own)


def _measure(
    bench: str, shared: dict[str, Any], options: Options, configuration: str, own: dict[str, Any]
) -> None:
    with LiveLine(sys.stderr, shutil.get_terminal_size().columns) as progress:
        rows = measure(
            bench,
            shared["backends"],
            shared["sizes"],
            shared["repeat"],
            options,
            configuration,
            progress.show,
        )
    if shared["as_json"]:
        asked = {"repeat": shared["repeat"], "limit_s": shared["limit_s"]} | own
        click.echo(json.dumps(document(bench, asked, machine(), rows)))
    else:
        click.echo(format_table(bench, rows, shared["limit_s"]))
