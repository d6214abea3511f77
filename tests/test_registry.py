from __future__ import annotations

import importlib.metadata
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from quorate.api import RendezvousHandler, RendezvousParameters
from quorate.errors import RendezvousSettingsError
from quorate.handler import DynamicRendezvousHandler
from quorate.registry import (
    ENTRY_POINT_GROUP,
    RendezvousHandlerRegistry,
    get_rendezvous_handler,
    register_plugins,
    rendezvous_handler_registry,
)
from quorate.static import StaticRendezvous
from quorate.stores.memory import MemoryStore


def params(backend: str, endpoint: str = "", nodes: int = 1, **config: Any) -> RendezvousParameters:
    return RendezvousParameters(backend, endpoint, "the run/1", nodes, nodes, **config)


def make_static(given: RendezvousParameters) -> RendezvousHandler:
    from quorate.identity import Endpoint

    return StaticRendezvous(Endpoint("a", 1), 0, 1, "run", open_store=lambda *_: MemoryStore())


def make_other(given: RendezvousParameters) -> RendezvousHandler:
    raise NotImplementedError


def meet(*handlers: RendezvousHandler) -> None:
    """Let the handlers complete a round and share a key, and end."""
    with ThreadPoolExecutor(len(handlers)) as pool:
        infos = list(pool.map(lambda handler: handler.next_rendezvous(), handlers))
    assert sorted(info.rank for info in infos) == list(range(len(handlers)))
    infos[0].store.set("key", b"value")
    assert {bytes(info.store.get("key")) for info in infos} == {b"value"}
    assert len({str(info.bootstrap_store_info) for info in infos}) == 1
    assert all(handler.shutdown() for handler in handlers)


def test_a_registered_creator_is_called() -> None:
    registry = RendezvousHandlerRegistry()
    registry.register("static", make_static)
    registry.register("static", make_static)
    assert isinstance(registry.create_handler(params("static")), StaticRendezvous)


def test_a_name_stands_for_one_creator() -> None:
    registry = RendezvousHandlerRegistry()
    registry.register("static", make_static)
    with pytest.raises(ValueError, match="'static' is registered already"):
        registry.register("static", make_other)
    with pytest.raises(ValueError, match="under a name"):
        registry.register("", make_static)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RendezvousSettingsError, match=r"'xyzzy' is unknown: .*memory"):
        get_rendezvous_handler(params("xyzzy"))


def test_a_handler_of_another_backend_is_refused() -> None:
    registry = RendezvousHandlerRegistry()
    registry.register("other", make_static)
    with pytest.raises(RuntimeError, match="'other' says that it is of 'static'"):
        registry.create_handler(params("other"))


@pytest.mark.parametrize(
    "backend", ["quorate", "c10d", "static", "file", "memory", "etcd", "etcd-v2"]
)
def test_what_is_built_in(backend: str) -> None:
    with pytest.raises(ValueError, match="registered already"):
        rendezvous_handler_registry.register(backend, make_static)


def test_nodes_of_one_process_meet_in_memory() -> None:
    meet(*(get_rendezvous_handler(params("memory", nodes=2)) for _ in range(2)))


def test_nodes_that_share_a_path_meet_in_files(tmp_path: Path) -> None:
    given = params("file", str(tmp_path / "state"), nodes=2)
    meet(*(get_rendezvous_handler(given) for _ in range(2)))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"state.the%20run%2F1", "state.the%20run%2F1.store"} <= names


@pytest.mark.parametrize("backend", ["file", "memory"])
@pytest.mark.parametrize(
    "other", ["run.lock", "run.store", "run.tmp", "run.store.lock", "run/store"]
)
def test_no_run_is_what_another_one_keeps_beside_its_state(
    backend: str, other: str, tmp_path: Path
) -> None:
    endpoint = str(tmp_path / "state")
    handlers = [
        get_rendezvous_handler(RendezvousParameters(backend, endpoint, run_id, 1, 1))
        for run_id in (other, "run")
    ]
    stores = [handler.next_rendezvous().store for handler in handlers]
    for number, store in enumerate(stores):
        store.set("key", str(number))
    assert [bytes(store.get("key")) for store in stores] == [b"0", b"1"]
    assert [handler.shutdown() for handler in handlers] == [True, True]


@pytest.mark.parametrize(
    ("endpoint", "complaint"),
    [
        ("", "path that all nodes share"),
        (".", "without a name"),
        ("/", "without a name"),
        ("..", "without a name"),
        ("folder/..", "without a name"),
    ],
)
def test_a_file_needs_a_path_with_a_name(endpoint: str, complaint: str) -> None:
    with pytest.raises(RendezvousSettingsError, match=complaint):
        get_rendezvous_handler(params("file", endpoint))


@pytest.mark.torch
def test_nodes_meet_in_a_store_of_torch(free_port: Callable[[], int]) -> None:
    given = params("c10d", f"127.0.0.1:{free_port()}", nodes=2, local_addr="127.0.0.1")
    first = get_rendezvous_handler(given)
    assert isinstance(first, DynamicRendezvousHandler)
    assert first.use_agent_store
    meet(first, get_rendezvous_handler(given))


@pytest.mark.torch
def test_an_unknown_key_is_refused_before_anything_is_reached() -> None:
    """R13"""
    with pytest.raises(RendezvousSettingsError, match="'is_host'"):
        get_rendezvous_handler(params("c10d", "192.0.2.1:1", is_hots=1))


class EntryPoint:
    """As much of an entry point as the registry uses."""

    def __init__(self, name: str, load: Callable[[], Any]) -> None:
        self.name = name
        self.value = f"package:{name}"
        self.load = load


def test_plugins_are_registered_and_broken_ones_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise ImportError("no such module")

    found = [
        EntryPoint("broken", broken),
        EntryPoint("static", lambda: lambda: make_static),
        EntryPoint("taken", lambda: lambda: make_static),
        EntryPoint("creator", lambda: make_static),
    ]
    asked: list[str] = []

    def entry_points(group: str) -> list[EntryPoint]:
        asked.append(group)
        return found

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    registry = RendezvousHandlerRegistry()
    registry.register("taken", make_other)
    with caplog.at_level(logging.WARNING, "quorate.registry"):
        register_plugins(registry)
    assert asked == [ENTRY_POINT_GROUP]
    assert isinstance(registry.create_handler(params("static")), StaticRendezvous)
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 3
    assert "'broken' (package:broken) is broken and left out" in warnings[0]
    assert "'taken'" in warnings[1]
    assert "a function without arguments that returns the creator" in warnings[2]


def test_plugins_are_registered_once_when_the_first_handler_is_asked_for(tmp_path: Path) -> None:
    """Each call of an entry point may make another creator, which would be a conflict."""
    (tmp_path / "plug.py").write_text(
        "from quorate.static import create_handler\n"
        "def creators():\n"
        "    print('asked')\n"
        "    return lambda params: create_handler(params)\n"
    )
    package = tmp_path / "plug-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nplug = plug:creators\n")
    program = (
        "from quorate import RendezvousParameters\n"
        "from quorate.registry import get_rendezvous_handler\n"
        "print('imported')\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        get_rendezvous_handler(RendezvousParameters('plug', 'c1:1', 'r', 1, 1, rank=0))\n"
        "    except RuntimeError as error:\n"
        "        print('created')\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["imported", "asked", "created", "created"]
    assert "broken" not in done.stderr


def test_the_registry_imports_nothing_heavy() -> None:
    program = (
        "import sys, quorate.registry\nprint(*sorted({'torch', 'asyncio'} & sys.modules.keys()))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == ""
