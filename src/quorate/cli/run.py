"""`quorate run`: one node of an elastic job. The flags are torchrun's where the meaning is."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import click

from quorate.api import RendezvousHandler, RendezvousParameters
from quorate.cli.common import (
    CONTEXT_SETTINGS,
    Seconds,
    events_option,
    send_events,
    set_up_logging,
    token_option,
)
from quorate.cli.torchrun_options import (
    let_standalone_win,
    master_endpoint,
    read_and_ignored,
    shared_option,
)
from quorate.config import (
    check_keys,
    parse_labels,
    parse_rendezvous_config,
    profile_from,
    settings_from,
)
from quorate.coordinated import BACKEND, DEFAULT_PORT
from quorate.credentials import Token, exported, token_from
from quorate.errors import RendezvousSettingsError
from quorate.identity import Endpoint, parse_rendezvous_endpoints
from quorate.launch.accelerators import LOOKED_AT, count_accelerators
from quorate.launch.agent import Agent
from quorate.launch.health import HEALTH_TIMEOUT_S, HealthCheck, take_health_check
from quorate.launch.interrupts import Interrupted, Interrupts
from quorate.launch.own_coordinator import OwnCoordinator, own_endpoint
from quorate.launch.spec import WorkerSpec, loss_window_s
from quorate.registry import get_rendezvous_handler
from quorate.terminal import ERASE_LINE, LiveLine, WaitLine
from quorate.tls import TlsFiles, tls_files_from

__all__ = ["command", "parse_nodes", "parse_workers"]

logger = logging.getLogger(__name__)

# Some terminals do not know how wide they are.
COLUMNS = 80

_AFTER_DASHES = "quorate.after_dashes"


class _RunCommand(click.Command):
    """Lets `--standalone` win; knows whether the program stood after `--`, and is run as it is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            let_standalone_win(ctx)
        program = tuple(ctx.params.get("program") or ())
        if "--" in given:
            ctx.meta[_AFTER_DASHES] = tuple(given[given.index("--") + 1 :]) == program
        return rest


def parse_nodes(text: str) -> tuple[int, int]:
    """Read `--nnodes`: N, or MIN:MAX.

    Raises:
        RendezvousSettingsError: It is neither, or MIN is greater than MAX.
    """
    match = re.fullmatch(r"([0-9]{1,10})(?::([0-9]{1,10}))?", text.strip())
    if match is None:
        raise RendezvousSettingsError(
            f"--nnodes '{text}' is not a number of nodes: write N, or MIN:MAX as in 2:8."
        )
    least = int(match[1])
    most = int(match[2]) if match[2] else least
    if least < 1 or most < least:
        raise RendezvousSettingsError(
            f"--nnodes '{text}' asks for at least {least} and at most {most} nodes: write MIN:MAX "
            f"with 1 <= MIN <= MAX."
        )
    return least, most


def parse_workers(text: str, accelerators: int, processors: int) -> int:
    """Read `--nproc-per-node`: a number, `gpu`, `cpu`, or `auto`, one of these two.

    Args:
        text: What was given.
        accelerators: How many accelerators this machine has for us.
        processors: How many processors it has for us.

    Raises:
        RendezvousSettingsError: It is none of them, or `gpu` where there is none.
    """
    if text == "cpu" or (text == "auto" and accelerators == 0):
        return processors
    if text in {"auto", "gpu"}:
        if accelerators == 0:
            raise RendezvousSettingsError(
                f"--nproc-per-node 'gpu' is one worker for each accelerator, and none was found in "
                f"{LOOKED_AT}: see whether they are hidden from this process, or write a number."
            )
        return accelerators
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) < 1:
        raise RendezvousSettingsError(
            f"--nproc-per-node '{text}' is not a number of workers: write a number from 1, 'gpu' "
            f"or 'cpu' for one for each, or 'auto' for one for each accelerator, or processor if "
            f"there is none."
        )
    return int(text)


@click.command(
    "run",
    cls=_RunCommand,
    context_settings=CONTEXT_SETTINGS
    | {
        "allow_interspersed_args": False,
    },
)
@shared_option(
    "--nnodes",
    default="1",
    show_default=True,
    metavar="N|MIN:MAX",
    help="How many nodes a round has.",
)
@shared_option(
    "--nproc-per-node",
    default="1",
    show_default=True,
    metavar="N|auto|gpu|cpu",
    help="How many workers this node runs; auto: one for each accelerator, or processor if there "
    "is none.",
)
@shared_option(
    "--rdzv-id",
    "run_id",
    default="",
    metavar="ID",
    help="The id of the run, the same on all nodes. Default: 'none', as with torchrun; "
    "with --standalone a random one.",
)
@shared_option(
    "--rdzv-endpoint",
    "endpoint",
    default="",
    metavar="HOST[:PORT][,...]",
    help="The coordinator. If HOST is this machine and nobody serves there, one is started.",
)
@shared_option(
    "--rdzv-backend",
    "backend",
    default="quorate",
    show_default=True,
    help="The kind of rendezvous.",
)
@shared_option(
    "--rdzv-conf",
    "configuration",
    default="",
    metavar="KEY=VALUE,...",
    help="Further settings; `python -m quorate.config` lists them.",
)
@shared_option(
    "--standalone", is_flag=True, help="A job of this machine alone, with a coordinator of its own."
)
@shared_option(
    "--max-restarts",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="How often failed workers are restarted. Regrouping because nodes came or were "
    "lost is free.",
)
@shared_option(
    "--monitor-interval",
    default=0.1,
    show_default=True,
    metavar="SECONDS",
    type=Seconds(above=True),
    help="How often the rendezvous is asked for changes.",
)
@click.option(
    "--stop-grace",
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    type=Seconds(),
    help="How long workers have between SIGTERM and SIGKILL.",
)
@shared_option(
    "--node-rank",
    type=click.IntRange(min=0),
    help="The index that a scheduler gave this node; with rank_policy=hint its rank.",
)
@click.option(
    "--node-id",
    metavar="ID",
    help="An identity that outlives this process: a restarted node replaces its former "
    "self at once.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME:VALUE",
    help="Something that is known about this node; may be given several times.",
)
@shared_option("--local-addr", metavar="ADDR", help="The address at which others reach this node.")
@token_option("The file of the secret that this node and the coordinator must both know.")
@shared_option(
    "--log-dir",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the workers' output here too, as RUN/EPOCH-ROUND/RANK.log.",
)
@click.option(
    "--health-check",
    metavar="COMMAND",
    help="Run before each join; unless it exits with 0 this node stays out of the run, and tries "
    "again until the join timeout is over. No shell reads it.",
)
@click.option(
    "--health-check-timeout",
    metavar="SECONDS",
    type=Seconds(above=True),
    help=f"How long the health check may take. Default: {HEALTH_TIMEOUT_S:g}.",
)
@shared_option("-m", "--module", is_flag=True, help="The program is a Python module.")
@events_option()
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
)
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Run PROGRAM as one node of an elastic job.

    PROGRAM is a Python script with its arguments; after `--` it is any program. Workers find
    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in their environment. The exit code
    is that of the worker that failed first; `quorate --help` tells the others.
    """
    # The workers' lines go there as before: a worker may wait for its reader.
    err = sys.stderr.buffer
    # What is logged stands beside what the agent says, and is for the same eyes.
    erasing = ERASE_LINE if sys.stderr.isatty() else ""
    set_up_logging(options["log_level"], f"{erasing}quorate: %(message)s")
    send_events(options["events"])
    if options["log_level"] != "debug":
        # What has failed is said once, by the agent.
        logging.getLogger("quorate.events").setLevel(logging.ERROR)
    _tell_of_variables(ctx)
    program = _program(
        options["program"], options["module"], _AFTER_DASHES in ctx.meta and ctx.meta[_AFTER_DASHES]
    )
    workers = parse_workers(
        options["nproc_per_node"], count_accelerators(os.environ), len(os.sched_getaffinity(0))
    )
    interrupts = Interrupts()
    # The outer one, so that no signal cuts the closing short.
    with interrupts.installed(), contextlib.ExitStack() as closing:
        try:
            exit_code = _run_agent(options, program, workers, closing, interrupts, err)
        except Interrupted:
            exit_code = _exit_code_of(interrupts)
    sys.exit(exit_code)


def _exit_code_of(interrupts: Interrupts) -> int:
    """Return the exit code of an agent that a signal has ended before it began."""
    number = interrupts.first
    assert number is not None
    click.echo(f"quorate: received {number.name}: ending", err=True)
    return 128 + number


def _tell_of_variables(ctx: click.Context) -> None:
    """Say what comes from torchrun's variables, which nobody sees on the command line."""
    read, ignored = read_and_ignored(ctx, os.environ)
    if read:
        logger.info("options from the environment: %s", " ".join(read))
    if ignored:
        logger.warning(
            "%s set for torchrun, without effect here: see `quorate run --help`, or unset %s",
            f"{', '.join(ignored)} {'are' if len(ignored) > 1 else 'is'}",
            "them" if len(ignored) > 1 else "it",
        )


def _run_agent(
    options: dict[str, Any],
    program: tuple[str, ...],
    workers: int,
    closing: contextlib.ExitStack,
    interrupts: Interrupts,
    err: BinaryIO,
) -> int:
    joined = _join_run(options, workers, closing, interrupts)
    if sys.stderr.isatty() and logging.getLogger().isEnabledFor(logging.INFO):
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or COLUMNS
        joined.handler.report_waits_to(WaitLine(LiveLine(sys.stderr, columns)))
    spec = WorkerSpec(
        command=program,
        workers=workers,
        run_id=joined.run_id,
        environment=exported(joined.token, os.environ) | TlsFiles.environment(joined.tls),
        endpoint=joined.endpoint,
        log_dir=options["log_dir"],
        max_restarts=options["max_restarts"],
        monitor_interval_s=options["monitor_interval"],
        stop_grace_s=options["stop_grace"],
        loss_window_s=joined.loss_window_s,
        health_check=joined.health_check,
    )
    words = sys.stderr.buffer
    return Agent(joined.handler, spec, err=err, words=words, interrupts=interrupts).run()


class _Joined(NamedTuple):
    """What an agent has joined, and how.

    Args:
        handler: Its way to do so.
        endpoint: Where its workers find the coordinator; empty if there is none.
        run_id: The run.
        token: What its workers need to be let in too.
        tls: The files that they need for it.
        health_check: What has to succeed before each join, if anything has to.
        loss_window_s: Within how long, in seconds, the loss of another node is told.
    """

    handler: RendezvousHandler
    endpoint: str
    run_id: str
    token: Token | None
    tls: TlsFiles | None
    health_check: HealthCheck | None
    loss_window_s: float


def _join_run(
    options: dict[str, Any],
    workers: int,
    closing: contextlib.ExitStack,
    interrupts: Interrupts,
) -> _Joined:
    """Return the handler and what goes with it; what is to be ended goes to `closing`.

    Raises:
        RendezvousSettingsError: The options make no sense; nothing was started.
        Interrupted: A signal has come meanwhile.
    """
    least, most = parse_nodes(options["nnodes"])
    config: dict[str, Any] = parse_rendezvous_config(options["configuration"])
    config |= _node_configuration(options, config, workers)
    endpoint, run_id = options["endpoint"], options["run_id"] or "none"
    is_coordinated = options["backend"] == BACKEND
    if most > 1 and not endpoint and not options["standalone"]:
        endpoint = master_endpoint(os.environ)
        if endpoint:
            logger.info("meeting at %s, which PET_MASTER_ADDR names", endpoint)
    if _is_alone(options["standalone"], endpoint, least, most):
        endpoint = "localhost:0"
        own = Endpoint("localhost", 0) if is_coordinated else None
        run_id = options["run_id"] or secrets.token_hex(8)
    else:
        own = own_endpoint(endpoint, most) if is_coordinated else None

    def parameters() -> RendezvousParameters:
        return RendezvousParameters(
            options["backend"], endpoint, run_id, least, most, options["local_addr"], **config
        )

    # Whatever is wrong is said before a coordinator is started for nothing.
    settings = settings_from(parameters())
    health_check = take_health_check(config, settings.timeout.join.total_seconds())
    check_keys(config, options["backend"])
    profile_from(parameters())
    token = token_from(config.get("token_file")) if is_coordinated else None
    tls = tls_files_from(parameters()) if is_coordinated else None
    if own is not None:
        coordinator = OwnCoordinator(own, token, tls)
        closing.callback(coordinator.close)
        endpoint = str(coordinator.endpoint)
        config.setdefault("state_dir", str(coordinator.folder))
    with interrupts.felt():
        handler = get_rendezvous_handler(parameters())
    if own is not None:
        # Before its coordinator ends: later there is nobody to say it to.
        closing.callback(handler.leave, "the agent has ended")
    told = _with_ports(endpoint) if is_coordinated else ""
    window_s = loss_window_s(settings.reconnect_grace.total_seconds())
    return _Joined(handler, told, run_id, token, tls, health_check, window_s)


def _with_ports(endpoint: str) -> str:
    """Return an endpoint, or several, each with its port: workers know of no default."""
    return ",".join(map(str, parse_rendezvous_endpoints(endpoint, DEFAULT_PORT)))


def _is_alone(standalone: bool, endpoint: str, least: int, most: int) -> bool:
    """Return whether this is a job of one node, with a coordinator of its own."""
    if standalone and endpoint:
        raise RendezvousSettingsError(
            "--standalone is a job of this machine alone: leave --rdzv-endpoint out, or leave out "
            "--standalone to meet others there."
        )
    if standalone and least > 1:
        raise RendezvousSettingsError(
            f"--standalone is a job of one node, which cannot have at least {least} nodes: leave "
            f"--nnodes out, or give --rdzv-endpoint for the others to come to."
        )
    if not standalone and not endpoint and most > 1:
        raise RendezvousSettingsError(
            "Several nodes must be told where to meet: give --rdzv-endpoint HOST[:PORT], or "
            "--standalone for a job of this machine alone."
        )
    return standalone or not endpoint


def _node_configuration(
    options: dict[str, Any], config: dict[str, Any], workers: int
) -> dict[str, Any]:
    given: dict[str, Any] = {"slots": workers}
    if options["node_rank"] is not None:
        given["rank" if options["backend"] == "static" else "rank_hint"] = options["node_rank"]
    if options["node_id"]:
        given["node_id"] = options["node_id"]
    if options["health_check"] is not None:
        given["health_check"] = options["health_check"]
    if options["health_check_timeout"] is not None:
        given["health_check_timeout"] = options["health_check_timeout"]
    if options["token_file"] is not None:
        given["token_file"] = options["token_file"]
    if options["labels"]:
        given["labels"] = parse_labels(config.get("labels", "")) | parse_labels(
            ";".join(options["labels"])
        )
    return given


def _program(words: tuple[str, ...], module: bool, as_it_is: bool) -> tuple[str, ...]:
    if as_it_is and not module:
        return words
    return (sys.executable, "-u", *(("-m",) if module else ()), *words)
