"""The options that `quorate run` shares with torchrun, and the variables `PET_*` that set them.

torchrun reads each of its options from `PET_<NAME>` where the command line does not give it.
Operators of clusters, Kubeflow's among them, tell their pods by these variables alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

__all__ = ["let_standalone_win", "master_endpoint", "read_and_ignored", "shared_option"]

PREFIX = "PET_"

# By these torchrun's static rendezvous finds the node with rank 0: see `master_endpoint`.
MASTER = ("PET_MASTER_ADDR", "PET_MASTER_PORT")

# Options of torchrun's that `quorate run` does not have. A zero and an empty text ask for nothing.
IGNORED = (
    "PET_DUPLICATE_STDERR_FILTERS",
    "PET_DUPLICATE_STDOUT_FILTERS",
    "PET_EVENT_LOG_HANDLER",
    "PET_LOCAL_RANKS_FILTER",
    "PET_NO_PYTHON",
    "PET_REDIRECTS",
    "PET_ROLE",
    "PET_RUN_PATH",
    "PET_SHUTDOWN_TIMEOUT",
    "PET_SIGNALS_TO_HANDLE",
    "PET_START_METHOD",
    "PET_TEE",
    "PET_VIRTUAL_LOCAL_RANK",
)
NOTHING = ("", "0")

# What torchrun reads beside its options.
OTHERS_IGNORED = (
    "PYTHON_EXEC",
    "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE",
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT",
)

# By their names to click: what a job of one machine has of its own, whatever variables say.
REPLACED = ("nnodes", "run_id", "endpoint", "backend")


def shared_option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    """Return an option that means what torchrun's of the same name does.

    Args:
        names: As `click.option` takes them. The last one with two dashes names the variable.
        attributes: As `click.option` takes them.
    """
    long = [name for name in names if name.startswith("--")][-1]
    variable = PREFIX + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=True, **attributes)


def read_and_ignored(
    ctx: click.Context, environment: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Return what torchrun's variables have set, and which of them count for nothing.

    Args:
        ctx: Of the command.
        environment: Of this process.

    Returns:
        The options that were read from variables, as ``PET_NNODES=4``; the names of variables that
        `quorate run` does not know what to do with.
    """
    read = [
        f"{parameter.envvar}={environment.get(parameter.envvar, '')}"
        for parameter in ctx.command.params
        if isinstance(parameter.envvar, str)
        and parameter.envvar.startswith(PREFIX)
        and parameter.name is not None
        and _is_from_variable(ctx, parameter.name)
    ]
    known = (*IGNORED, *OTHERS_IGNORED)
    return read, [name for name in known if environment.get(name, "") not in NOTHING]


def let_standalone_win(ctx: click.Context) -> None:
    """Forget what variables have set of that which `--standalone` replaces, as torchrun does."""
    if not ctx.params["standalone"]:
        return
    for parameter in ctx.command.params:
        name = parameter.name
        if name not in REPLACED or not _is_from_variable(ctx, name):
            continue
        ctx.params[name] = parameter.get_default(ctx)
        ctx.set_parameter_source(name, click.core.ParameterSource.DEFAULT)


def _is_from_variable(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.ENVIRONMENT


def master_endpoint(environment: Mapping[str, str]) -> str:
    """Return where torchrun's static rendezvous would meet; empty if it is told nothing."""
    addr, port = (environment.get(name, "").strip() for name in MASTER)
    if not addr:
        return ""
    # An IPv6 address without brackets would take the port for its last part.
    host = f"[{addr}]" if ":" in addr and not addr.startswith("[") else addr
    return f"{host}:{port}" if port else host
