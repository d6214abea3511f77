"""The house stands as docs/architecture.md says, and the style holds everywhere.

`FLOORS` is the table to amend when a file is added: a module imports only what stands above it
here, on a lower floor or earlier on its own. Imports inside functions and under `TYPE_CHECKING`
count too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

# Lowest first. A folder's own name stands for its __init__.py, which sees the whole folder.
FLOORS: dict[str, str] = {
    "F0": """
        errors
        undecodable
        compression
        clock
        renewal
        credentials
        printable
        program
        """,
    "F1": """
        core.node
        core.settings
        core.observer
        core.state
        core.action
        core.ranking
        core.exclusion
        core.completion
        core.attendance
        core.transitions
        core.ops
        core
        wait
        api
        """,
    "F2": """
        identity
        logs
        tracing
        line_writer
        events
        terminal
        config
        etcd.messages
        etcd.receipt
        etcd.transport
        etcd.gateway
        etcd.watch
        etcd.client
        etcd.writer
        etcd.parameters
        backends.disk
        backends.lockfile
        backends.replacement
        backends.base
        backends.memory
        backends.file
        backends.bounded
        backends.tcpstore
        backends.journal
        stores.base
        stores.keyspace
        stores.memory
        stores.prefix
        stores.foreign
        stores.backed
        stores.etcd
        stores
        backends.etcd
        backends
        codec
        wire.messages
        wire.proof
        wire.frames
        wire.tls
        wire
        tls
        """,
    "F3": """
        holder
        coordinator.ledgers.base
        coordinator.ledgers.records
        coordinator.ledgers.stored_state
        coordinator.ledgers.vigil
        coordinator.ledgers.etcd_lease
        coordinator.ledgers.etcd
        coordinator.ledgers.etcd_seat
        coordinator.ledgers
        coordinator.runs.deadlines
        coordinator.runs.outbox
        coordinator.runs.store
        coordinator.runs.tally
        coordinator.runs.session
        coordinator.runs.herald
        coordinator.runs.history
        coordinator.runs.failures
        coordinator.runs.minutes
        coordinator.runs.roll
        coordinator.runs.bans
        coordinator.runs.judge
        coordinator.runs.failed_close
        coordinator.runs.joins
        coordinator.runs.rounds
        coordinator.runs.run
        coordinator.runs
        coordinator.engine.clock
        coordinator.engine.holdings
        coordinator.engine.inbox
        coordinator.engine.peer
        coordinator.engine.naming
        coordinator.engine.operators
        coordinator.engine.glimpse
        coordinator.engine.parts
        coordinator.engine.status
        coordinator.engine.reports
        coordinator.engine.greeting
        coordinator.engine.service
        coordinator.engine.engine
        coordinator.engine
        coordinator.entrance.door
        coordinator.entrance.refusals
        coordinator.entrance.admission
        coordinator.entrance.flow
        coordinator.entrance.newcomers
        coordinator.entrance.unfinished
        coordinator.hindrance
        coordinator.agent.attachment
        coordinator.agent.candidates
        coordinator.agent.answers
        """,
    "F4": """
        coordinator.chronicle
        coordinator.entrance.reception
        coordinator.entrance.connection
        coordinator.entrance.connections
        coordinator.entrance
        coordinator.inquiries
        coordinator.writer
        coordinator.tenure
        coordinator.server
        coordinator.process
        coordinator.agent.blocking
        coordinator.agent.dialer
        coordinator.agent.client
        coordinator.agent.remote_store
        coordinator.agent
        coordinator.host
        coordinator
        """,
    "F5": """
        executor
        joining
        heartbeat
        """,
    "F6": """
        handler
        coordinated
        worker
        static
        etcd.letters
        etcd.correspondent
        etcd.mailroom
        etcd.session
        etcd.office
        etcd.chair
        etcd.rendezvous
        """,
    "F7": """
        registry
        """,
    "F8": """
        launch.accelerators
        launch.warden
        launch.gate
        launch.standard_input
        launch.wards
        launch.own_coordinator
        launch.output
        launch.workers
        launch.health
        launch.error_file
        launch.files
        launch.spec
        launch.interrupts
        launch.exit_barrier
        launch.agent
        launch
        etcd.member
        etcd.server
        etcd
        torchrun
        plugin
        page.timeline
        page.access
        page.acts
        page.snapshots
        page.visitors
        page.metrics
        page.feed
        page.app
        page
        """,
    "testing": """
        testing.clock
        testing.backends
        testing.stores
        testing.etcd
        testing.sim.schedule
        testing.sim.trace
        testing.sim.process
        testing.sim.network
        testing.sim.result
        testing.sim.setting
        testing.sim.ranks
        testing.sim.rules
        testing.sim.gathering
        testing.sim.line
        testing.sim.reasons
        testing.sim.engine
        testing.sim.stores
        testing.sim.ledger
        testing.sim.custody
        testing.sim.coordinator
        testing.sim.seat
        testing.sim.store_user
        testing.sim.agent
        testing.sim.beliefs
        testing.sim.endings
        testing.sim.patience
        testing.sim.watch
        testing.sim.operator
        testing.sim.havoc
        testing.sim.coordinated
        testing.sim.shared
        testing.sim.bounds
        testing.sim.node
        testing.sim.direct
        testing.sim.campaign
        testing.sim
        testing.sim.__main__
        testing
        """,
    "public": """
        quorate
        """,
    "F9": """
        demo.digits
        demo.classifier
        demo.checkpoint
        demo.reduction
        demo.train
        demo
        demo.show
        cli.standard_error
        cli.common
        cli.serve
        cli.inquiry
        cli.status
        cli.watch
        cli.history
        cli.operate
        cli.doctor
        cli.torchrun_options
        cli.run
        bench.tasks
        bench.usage
        bench.crowd
        bench.floor
        bench.sessions
        bench.torch_peer
        bench.threads
        bench.load
        bench.peer_server
        bench.subjects
        bench.fleet
        bench.figures
        bench.simulation
        bench.measuring
        bench.campaign
        bench.machine
        bench.table
        bench.plot
        bench.report
        bench
        cli.bench
        cli.demo
        cli.main
        cli
        __main__
        """,
}

# What may not reach for the machine: time, chance and the network come to it as arguments. A name
# stands for what is below it too.
PURE = {
    "bench.figures",
    "bench.plot",
    "bench.table",
    "bench.tasks",
    "coordinator.agent.candidates",
    "coordinator.engine",
    "coordinator.entrance.admission",
    "coordinator.entrance.door",
    "coordinator.entrance.flow",
    "coordinator.entrance.newcomers",
    "coordinator.entrance.refusals",
    "coordinator.entrance.unfinished",
    "coordinator.hindrance",
    "coordinator.ledgers.records",
    "coordinator.ledgers.stored_state",
    "coordinator.ledgers.vigil",
    "coordinator.runs",
    "core",
    "etcd.correspondent",
    "etcd.letters",
    "etcd.mailroom",
    "etcd.messages",
    "etcd.receipt",
    "page.access",
    "page.acts",
    "page.timeline",
    "stores.keyspace",
    "wire.frames",
    "wire.proof",
    "wire.tls",
}
IMPURE = {"asyncio", "logging", "random", "socket", "threading", "time", "torch"}

TORCH_ALLOWED = {"backends.tcpstore", "torchrun", "bench.torch_peer"}

NOT_AT_IMPORT = (
    "aiohttp",
    "asyncio",
    "numpy",
    "opentelemetry",
    "prometheus_client",
    "ssl",
    "torch",
    "urllib3",
    "uvloop",
)
IMPORT_TIME_S = 0.1

# Written so that this file does not find itself.
FOREIGN = re.compile(
    r"(?<![\w.}])/(?:work|root|tmp)/" + r"|\b(?:py" + r"pi\.org|download\.py" + r"torch\.org)\b"
)
SKIPS = re.compile(r"pytest\.(mark\.)?(skip|skipif|xfail)")
NOT_OURS = {"__pycache__", "build", "dist"}


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name, and where it is imported."""

    module: str
    line: int


@cache
def tree_of(path: Path) -> ast.Module:
    """Return a source file, parsed."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def modules() -> dict[str, Path]:
    """Return our modules by their full names, packages by their folder's name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def short(module: str) -> str:
    """Return a module's name as the table has it."""
    return module.removeprefix("quorate.")


@cache
def heights() -> dict[str, int]:
    """Return the place of every name of the table, counted from the ground."""
    names = " ".join(FLOORS.values()).split()
    return {name: height for height, name in enumerate(names)}


def floor_of(name: str) -> str:
    """Return the floor that a name of the table stands on."""
    return next(floor for floor, names in FLOORS.items() if name in names.split())


def is_pure(name: str) -> bool:
    """Return whether a module, or a package that it is in, is one of `PURE`."""
    parts = name.split(".")
    return any(".".join(parts[:length]) in PURE for length in range(1, len(parts) + 1))


def imports_of(module: str, path: Path) -> Iterator[Import]:
    """Yield everything a module imports, wherever in the file."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            origin = absolute(node, package)
            for alias in node.names:
                candidate = f"{origin}.{alias.name}"
                yield Import(candidate if candidate in modules() else origin, node.lineno)


def absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the module that a `from ... import` names, in full."""
    if node.level == 0:
        return node.module or ""
    above = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*above, node.module] if node.module else above)


def place(path: Path, line: int) -> str:
    """Return a position as an editor understands it."""
    return f"{path.relative_to(ROOT)}:{line}"


def report(complaints: list[str]) -> None:
    """Fail with every complaint, one a line."""
    if complaints:
        pytest.fail("\n".join(["", *complaints]), pytrace=False)


def test_every_module_has_a_floor() -> None:
    report(
        [
            f"{path.relative_to(ROOT)}: give it a floor: add {short(module)!r} to FLOORS"
            for module, path in modules().items()
            if short(module) not in heights()
        ]
    )


def test_no_module_stands_on_two_floors() -> None:
    names = " ".join(FLOORS.values()).split()
    assert sorted(names) == sorted(set(names))


def test_imports_run_downwards_only() -> None:
    complaints = []
    for module, path in modules().items():
        above = heights().get(short(module), -1)
        for imported in imports_of(module, path):
            name = short(imported.module)
            if imported.module not in modules() or name not in heights():
                continue
            if heights()[name] >= above >= 0:
                complaints.append(
                    f"{place(path, imported.line)}: {short(module)} ({floor_of(short(module))})"
                    f" imports {name} ({floor_of(name)}), which does not stand below it"
                )
    report(complaints)


def test_what_is_pure_imports_nothing_that_waits_or_throws_dice() -> None:
    report(
        [
            f"{place(path, imported.line)}: {short(module)} is pure and imports {imported.module}"
            for module, path in modules().items()
            if is_pure(short(module))
            for imported in imports_of(module, path)
            if imported.module.partition(".")[0] in IMPURE
        ]
    )


def test_what_is_called_pure_is_there() -> None:
    assert not [name for name in PURE if name not in heights()]


def test_torch_is_imported_only_at_its_edge() -> None:
    report(
        [
            f"{place(path, imported.line)}: torch belongs in {sorted(TORCH_ALLOWED)} only"
            for module, path in modules().items()
            if short(module) not in TORCH_ALLOWED
            for imported in imports_of(module, path)
            if imported.module.partition(".")[0] == "torch"
        ]
    )


def test_importing_quorate_is_quick_and_brings_nothing_heavy() -> None:
    program = (
        "import sys, time\n"
        "start = time.process_time()\n"
        "import quorate\n"
        "print(time.process_time() - start)\n"
        f"print(*sorted(sys.modules.keys() & set({NOT_AT_IMPORT!r})))\n"
    )
    times = []
    for _ in range(5):
        output = subprocess.check_output([sys.executable, "-c", program], text=True)
        time_s, brought = output.split("\n")[:2]
        assert brought == "", f"import quorate imports {brought}"
        times.append(float(time_s))
    # The processor's time, and the least of several: slow code slows all, a busy machine some.
    assert min(times) < IMPORT_TIME_S


# Style


def test_everything_public_has_a_docstring() -> None:
    complaints = []
    for path in modules().values():
        tree = tree_of(path)
        if ast.get_docstring(tree) is None:
            complaints.append(f"{place(path, 1)}: the module has no docstring")
        for name, node in public_definitions(tree):
            if ast.get_docstring(node) is None and not is_excused(name, node):
                complaints.append(f"{place(path, node.lineno)}: {name} has no docstring")
    report(complaints)


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public_definitions(
    parent: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[str, Definition]]:
    """Yield the public classes, functions and methods, with their names in full."""
    for node in parent.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node, f"{prefix}{node.name}.")


def is_excused(name: str, node: Definition) -> bool:
    """Whether a definition may go without: an overload, a setter, or documented by a base."""
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    if decorators & {"overload", "setter"}:
        return True
    owner, _, method = name.rpartition(".")
    return bool(owner) and documented_by_a_base(owner.rpartition(".")[2], method)


def documented_by_a_base(class_name: str, method: str) -> bool:
    """Whether a base class of ours documents a method of this name."""
    for base in classes().get(class_name, ()):
        for node in bases_named(base):
            for member in node.body:
                if (
                    isinstance(member, Definition)
                    and member.name == method
                    and ast.get_docstring(member) is not None
                ):
                    return True
        if documented_by_a_base(base, method):
            return True
    return False


@cache
def classes() -> dict[str, tuple[str, ...]]:
    """Return the names of our classes, with the names of their bases."""
    return {
        node.name: tuple(
            ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases
        )
        for node in class_definitions()
    }


@cache
def class_definitions() -> tuple[ast.ClassDef, ...]:
    """Return every class of the sources."""
    return tuple(
        node
        for path in modules().values()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
    )


def bases_named(name: str) -> Iterator[ast.ClassDef]:
    """Yield our classes of a name."""
    return (node for node in class_definitions() if node.name == name)


def files_of_tests() -> list[Path]:
    """Return every Python file of the tests."""
    return sorted((ROOT / "tests").rglob("*.py"))


def calls_in(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call in a file, with the name of what is called."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_no_test_sleeps() -> None:
    complaints = []
    for path in files_of_tests():
        if path == ROOT / "tests" / "conftest.py":
            continue
        for name, call in calls_in(path):
            yields_only = name == "asyncio.sleep" and ast.unparse(call.args[0]) == "0"
            if name in ("time.sleep", "asyncio.sleep") and not yields_only:
                complaints.append(f"{place(path, call.lineno)}: wait for what can be observed")
        for imported in ast.walk(tree_of(path)):
            if isinstance(imported, ast.ImportFrom) and imported.module in ("time", "asyncio"):
                complaints += [
                    f"{place(path, imported.lineno)}: wait for what can be observed"
                    for alias in imported.names
                    if alias.name == "sleep"
                ]
    report(complaints)


def test_no_test_is_skipped_without_a_reason() -> None:
    report(
        [
            f"{place(path, line)}: say why, or use a marker of tests/conftest.py"
            for path in files_of_tests()
            for line in unexplained_skips(path)
        ]
    )


def test_what_is_missing_is_told_in_one_place() -> None:
    """There it fails in CI: a test that skips by itself would not be missed."""
    report(
        [
            f"{place(path, call.lineno)}: call `do_without` of tests/conftest.py"
            for path in files_of_tests()
            if path != ROOT / "tests" / "conftest.py"
            for name, call in calls_in(path)
            if name == "pytest.skip"
        ]
    )


def unexplained_skips(path: Path) -> Iterator[int]:
    """Yield the lines that skip a test and do not say why."""
    for name, call in calls_in(path):
        explained = any(keyword.arg == "reason" for keyword in call.keywords)
        if name in ("pytest.skip", "pytest.xfail"):
            explained = explained or bool(call.args)
        if name == "pytest.importorskip" or (SKIPS.fullmatch(name) and not explained):
            yield call.lineno
    for node in ast.walk(tree_of(path)):
        for decorator in getattr(node, "decorator_list", ()):
            if SKIPS.fullmatch(ast.unparse(decorator)):
                yield decorator.lineno


def our_files() -> Iterator[Path]:
    """Yield the text files of the repository, what programs generate left out."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = parts[0].startswith(".") and parts[0] not in (".ci", ".gitignore")
        if path.is_file() and not hidden and NOT_OURS.isdisjoint(parts):
            yield path


def test_no_file_names_a_machine_of_its_own() -> None:
    complaints = []
    for path in our_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if found := FOREIGN.search(line):
                complaints.append(f"{place(path, number)}: {found[0]} is not ours to name")
    report(complaints)
