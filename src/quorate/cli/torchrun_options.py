"""The options that `quorate run` shares with torchrun, and the variables `PET_*` that set them.

torchrun reads each of its options from `PET_<NAME>` where the command line does not give it.
Operators of clusters, Kubeflow's among them, tell their pods by these variables alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

__all__ = ["master_endpoint", "read_and_ignored", "shared_option"]

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
        and ctx.get_parameter_source(parameter.name) is click.core.ParameterSource.ENVIRONMENT
    ]
    return read, [name for name in IGNORED if environment.get(name, "") not in NOTHING]


def master_endpoint(environment: Mapping[str, str]) -> str:
    """Return where torchrun's static rendezvous would meet; empty if it is told nothing."""
    addr, port = (environment.get(name, "").strip() for name in MASTER)
    if not addr:
        return ""
    # An IPv6 address without brackets would take the port for its last part.
    host = f"[{addr}]" if ":" in addr and not addr.startswith("[") else addr
    return f"{host}:{port}" if port else host
