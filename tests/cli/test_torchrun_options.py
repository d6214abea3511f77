"""What `quorate run` takes from the variables that torchrun reads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

from quorate.cli.run import command
from quorate.cli.torchrun_options import IGNORED, MASTER, master_endpoint, read_and_ignored


def parse(variables: dict[str, str], *arguments: str) -> click.Context:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PET_")]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        return command.make_context("run", [*arguments, "--", "true"])


@pytest.mark.parametrize(
    ("variable", "value", "option", "becomes"),
    [
        ("PET_NNODES", "2:4", "nnodes", "2:4"),
        ("PET_NPROC_PER_NODE", "auto", "nproc_per_node", "auto"),
        ("PET_RDZV_ID", "job17", "run_id", "job17"),
        ("PET_RDZV_ENDPOINT", "node1:29400", "endpoint", "node1:29400"),
        ("PET_RDZV_BACKEND", "c10d", "backend", "c10d"),
        ("PET_RDZV_CONF", "join_timeout=9", "configuration", "join_timeout=9"),
        ("PET_STANDALONE", "1", "standalone", True),
        ("PET_STANDALONE", "0", "standalone", False),
        ("PET_MAX_RESTARTS", "3", "max_restarts", 3),
        ("PET_MONITOR_INTERVAL", "2.5", "monitor_interval", 2.5),
        ("PET_NODE_RANK", "7", "node_rank", 7),
        ("PET_LOCAL_ADDR", "10.0.0.7", "local_addr", "10.0.0.7"),
        ("PET_MODULE", "1", "module", True),
        ("PET_NNODES", "", "nnodes", "1"),
    ],
)
def test_options_are_read_from_torchruns_variables(
    variable: str, value: str, option: str, becomes: Any
) -> None:
    assert parse({variable: value}).params[option] == becomes


def test_the_command_line_goes_before_the_variables() -> None:
    variables = {"PET_NNODES": "4", "PET_RDZV_BACKEND": "c10d"}
    ctx = parse(variables, "--nnodes", "2")
    assert (ctx.params["nnodes"], ctx.params["backend"]) == ("2", "c10d")
    assert read_and_ignored(ctx, variables) == (["PET_RDZV_BACKEND=c10d"], [])


def test_a_job_of_one_machine_takes_nothing_of_where_others_meet() -> None:
    variables = {
        "PET_NNODES": "2",
        "PET_RDZV_ENDPOINT": "node1:29400",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ID": "job17",
        "PET_MAX_RESTARTS": "3",
    }
    for standalone in ({"PET_STANDALONE": "1"}, {}):
        ctx = parse(variables | standalone, *([] if standalone else ["--standalone"]))
        names = ("nnodes", "endpoint", "backend", "run_id", "max_restarts")
        assert [ctx.params[name] for name in names] == ["1", "", "quorate", "", 3]
        read, _ = read_and_ignored(ctx, variables | standalone)
        assert set(read) == {"PET_MAX_RESTARTS=3", *(f"{k}={v}" for k, v in standalone.items())}
    assert parse({}, "--standalone", "--rdzv-endpoint", "c1").params["endpoint"] == "c1"


def test_what_torchrun_reads_besides_is_named_too() -> None:
    variables = {"PYTHON_EXEC": "python3", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "9"}
    assert read_and_ignored(parse({}), variables) == ([], sorted(variables))


def test_what_cannot_be_honoured_is_named_unless_it_asks_for_nothing() -> None:
    variables = {"PET_ROLE": "trainer", "PET_TEE": "0", "PET_NO_PYTHON": "1", "PET_OTHER": "1"}
    assert read_and_ignored(parse({}), variables) == ([], ["PET_NO_PYTHON", "PET_ROLE"])


@pytest.mark.parametrize(
    ("addr", "port", "endpoint"),
    [
        ("pod-0.svc", "29400", "pod-0.svc:29400"),
        ("pod-0.svc", "", "pod-0.svc"),
        ("fd00::1", "29400", "[fd00::1]:29400"),
        ("[fd00::1]", "", "[fd00::1]"),
        ("", "29400", ""),
    ],
)
def test_nodes_meet_where_the_static_rendezvous_would(addr: str, port: str, endpoint: str) -> None:
    assert master_endpoint(dict(zip(MASTER, (addr, port), strict=True))) == endpoint


def run(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quorate", "run", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_variables_are_told_of() -> None:
    variables = {"PET_NPROC_PER_NODE": "2", "PET_TEE": "3"}
    ended = run(variables, "--standalone", "--", "sh", "-c", "echo $RANK of $WORLD_SIZE")
    assert sorted(ended.stdout.splitlines()) == ["[0]:0 of 2", "[1]:1 of 2"]
    lines = ended.stderr.splitlines()
    assert lines[0] == "quorate: options from the environment: PET_NPROC_PER_NODE=2"
    assert lines[1].startswith("quorate: PET_TEE is set for torchrun, without effect here")


def test_a_variable_that_makes_no_sense_is_named() -> None:
    ended = run({"PET_MAX_RESTARTS": "many"}, "--standalone", "--", "true")
    assert ended.returncode == 2
    assert "PET_MAX_RESTARTS" in ended.stderr


def test_several_nodes_meet_where_the_master_is(free_port: Callable[[], int]) -> None:
    variables = {"PET_NNODES": "2", "PET_MASTER_ADDR": "localhost"}
    variables["PET_MASTER_PORT"] = str(free_port())
    ended = run(variables, "--rdzv-conf", "join_timeout=0.2,is_host=0", "--", "true")
    assert ended.returncode == 73, ended.stderr
    where = f"localhost:{variables['PET_MASTER_PORT']}"
    assert f"quorate: meeting at {where}, which PET_MASTER_ADDR names" in ended.stderr


@pytest.mark.torch
def test_every_variable_of_torchruns_is_read_or_known_to_be_ignored() -> None:
    from torch.distributed.argparse_util import check_env, env
    from torch.distributed.run import get_args_parser

    theirs = {
        f"PET_{action.dest.upper()}"
        for action in get_args_parser()._actions
        if isinstance(action, env | check_env)
    }
    read = {parameter.envvar for parameter in command.params if parameter.envvar is not None}
    assert read <= theirs
    assert theirs - read == {*IGNORED, *MASTER}
