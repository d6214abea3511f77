"""The language of the scenario files, and what runs them.

A file is a list of blocks with an empty line between them: commands, one a line, then what came
of them. What is the same in both ways stands once, under `----`; what differs by design stands
under `---- direct` and `---- coordinated`. A block without either says that nothing happens. A
line that begins with `#` is a comment; the first line of a file names its rule.

    run min=2 max=3          the settings: last_call, join, regroup, keep_alive and grace in
                             seconds, attempts, policy, unit, failures (with window, cool_down)
    join a b node_id=n1      start agents, and let them call next_rendezvous; node_id, hint, block,
                             timeout, and settings that differ from the run's
    start a                  start an agent that does not join yet
    return a b               members, or nodes that gave up, call next_rendezvous (again)
    leave a                  an agent says that it leaves, and ends
    die a                    its process is killed
    silence a, restore a     it is cut off from the others, and connected again
    restart a                a new process of the same node joins; its name is a#2
    close a reason="done"    it closes the run
    drain a, evict a         an operator's commands; reason, and for an eviction `for=60s`
    hold, release, scale 3   more of them; `scale max`
    advance 31s              time passes; a line that begins with +31s came then
    freeze 20s               whoever judges the life of others is stopped for so long
    skew a 3600s             its wall clock goes wrong
    reload, lose-state       the keeper of the state restarts, with the state or without it
    waiting                  num_nodes_waiting of each member
    why a                    why it is kept waiting, or why it should regroup
    world                    the record of the last world
    lists                    who waits, who is a spare
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from quorate.core.node import NodeDesc, NodeProfile, natural_text
from quorate.core.settings import RendezvousSettings, RendezvousTimeout
from quorate.core.state import Place, World, WorldName, check
from quorate.errors import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousEvictedError,
    RendezvousGracefulExitError,
    RendezvousReplacedError,
    RendezvousSettingsError,
    RendezvousTimeoutError,
)
from tests.scenarios.coordinated import CoordinatedWay
from tests.scenarios.direct import DirectWay
from tests.scenarios.way import Happening, Way, plain

__all__ = ["WAYS", "Block", "Scenario", "play", "read", "rewrite"]

WAYS: dict[str, Callable[[RendezvousSettings], Way]] = {
    "direct": DirectWay,
    "coordinated": CoordinatedWay,
}

DIVIDER = "----"

ENDS = {
    RendezvousClosedError: "closed",
    RendezvousTimeoutError: "timed out",
    RendezvousReplacedError: "replaced by a newer incarnation",
    RendezvousSettingsError: "refused",
    RendezvousEvictedError: "kept out",
    RendezvousGracefulExitError: "not needed, exits",
}


@dataclass
class Block:
    """Commands, and what each way should say to them."""

    lines: list[str] = field(default_factory=list)
    expected: dict[str, list[str]] = field(default_factory=dict)

    @property
    def commands(self) -> list[str]:
        """The lines without comments."""
        return [line for line in self.lines if not line.startswith("#")]


@dataclass
class Scenario:
    """A scenario file."""

    path: Path
    blocks: list[Block]

    def text(self, way: str) -> str:
        """Return the file as it is for one way."""
        return "\n".join(
            line
            for block in self.blocks
            for line in [*block.lines, DIVIDER, *block.expected.get(way, []), ""]
        )


class Cast:
    """The agents of a scenario, and what each of them knows."""

    def __init__(self, way_type: Callable[[RendezvousSettings], Way]) -> None:
        self._way_type = way_type
        self._settings: RendezvousSettings | None = None
        self._way: Way | None = None
        self._profiles: dict[str, NodeProfile] = {}
        self._starts: dict[str, int] = {}
        self._held: dict[str, Place] = {}
        self._members: set[str] = set()
        self._should_regroup: set[str] = set()
        self._worlds: dict[WorldName, World] = {}

    @property
    def settings(self) -> RendezvousSettings:
        """The run's settings."""
        assert self._settings is not None, "the first command of a scenario must be `run`"
        return self._settings

    @property
    def way(self) -> Way:
        """The run itself."""
        assert self._way is not None, "the first command of a scenario must be `run`"
        return self._way

    def do(self, command: str) -> list[str]:
        """Carry out a command; return what came of it."""
        verb, *words = shlex.split(command)
        names = [word for word in words if "=" not in word]
        options = dict(word.split("=", 1) for word in words if "=" in word)
        act = getattr(self, "_do_" + verb.replace("-", "_"))
        said = list(act(names, options) or ())
        if self._way is not None:
            self.way.settle()
        return [*said, *self._news()]

    def _do_run(self, names: list[str], options: dict[str, str]) -> None:
        assert not names, f"unknown words: {names}"
        self._settings = make_settings(options)
        self._way = self._way_type(self._settings)

    def _do_start(self, names: list[str], options: dict[str, str]) -> None:
        own = dict(options)
        profile = NodeProfile(
            node_id=own.pop("node_id", ""),
            rank_hint=int(own.pop("hint")) if "hint" in own else None,
            labels={"block": own.pop("block")} if "block" in own else {},
        )
        settings = make_settings(own, self.settings)
        for name in names:
            self._profiles[name] = profile
            self._starts[name] = 1
            self.way.add(name, NodeDesc(name, 1, 0), profile, settings)

    def _do_join(self, names: list[str], options: dict[str, str]) -> None:
        timeout = options.pop("timeout", None)
        self._do_start(names, options)
        self._call(names, timeout)

    def _do_return(self, names: list[str], options: dict[str, str]) -> None:
        self._members -= set(names)
        self._call(names, options.get("timeout"))

    def _call(self, names: list[str], timeout: str | None) -> None:
        timeout_s = seconds(timeout) if timeout else self.settings.timeout.join.total_seconds()
        for name in names:
            self.way.join(name, timeout_s)
            self.way.settle()

    def _do_restart(self, names: list[str], _: dict[str, str]) -> None:
        for name in names:
            self._starts[name] += 1
            again = f"{name}#{self._starts[name]}"
            node = NodeDesc(again, 1, 0)
            self.way.add(again, node, self._profiles[name], self.settings)
            self._call([again], None)

    def _do_leave(self, names: list[str], _: dict[str, str]) -> None:
        self._members -= set(names)
        for name in names:
            self.way.leave(name)

    def _do_die(self, names: list[str], _: dict[str, str]) -> None:
        self._members -= set(names)
        for name in names:
            self.way.die(name)

    def _do_silence(self, names: list[str], _: dict[str, str]) -> None:
        for name in names:
            self.way.silence(name)

    def _do_restore(self, names: list[str], _: dict[str, str]) -> None:
        for name in names:
            self.way.restore(name)

    def _do_close(self, names: list[str], options: dict[str, str]) -> None:
        self.way.close(names[0], options.get("reason", ""))

    def _do_drain(self, names: list[str], options: dict[str, str]) -> Iterator[str]:
        yield from self._operate("drain", names, options)

    def _do_evict(self, names: list[str], options: dict[str, str]) -> Iterator[str]:
        self._members -= set(names)
        yield from self._operate("evict", names, options)

    def _do_hold(self, names: list[str], options: dict[str, str]) -> Iterator[str]:
        yield from self._operate("hold", names, options)

    def _do_release(self, names: list[str], options: dict[str, str]) -> Iterator[str]:
        yield from self._operate("release", names, options)

    def _do_scale(self, names: list[str], options: dict[str, str]) -> Iterator[str]:
        yield from self._operate("scale", names, options)

    def _operate(self, command: str, words: list[str], options: dict[str, str]) -> Iterator[str]:
        yield f"operator: {plain(self.way.operate(command, words, options))}"

    def _do_advance(self, names: list[str], _: dict[str, str]) -> Iterator[str]:
        for passed_s in range(1, round(seconds(names[0])) + 1):
            self.way.pass_second()
            yield from (f"+{passed_s}s {line}" for line in self._news())

    def _do_freeze(self, names: list[str], _: dict[str, str]) -> None:
        self.way.freeze(seconds(names[0]))

    def _do_skew(self, names: list[str], _: dict[str, str]) -> None:
        self.way.skew(names[0], seconds(names[1]))

    def _do_reload(self, _: list[str], __: dict[str, str]) -> None:
        self.way.begin_anew(with_state=True)

    def _do_lose_state(self, _: list[str], __: dict[str, str]) -> None:
        self.way.begin_anew(with_state=False)

    def _do_waiting(self, _: list[str], __: dict[str, str]) -> Iterator[str]:
        for name in sorted(self._members):
            yield f"{name}: {self.way.waiting(name)} waiting"

    def _do_why(self, names: list[str], _: dict[str, str]) -> Iterator[str]:
        for name in names:
            yield f"{name}: {plain(self.way.reason(name)) or 'no reason'}"

    def _do_world(self, _: list[str], __: dict[str, str]) -> Iterator[str]:
        world = self.way.state.world
        if world is None:
            yield "no world yet"
        else:
            ranks = " ".join(f"{node.addr}={rank}" for rank, node in enumerate(world.members))
            yield f"round {world.round}: {ranks}"

    def _do_lists(self, _: list[str], __: dict[str, str]) -> Iterator[str]:
        state = self.way.state
        for title, nodes in (
            ("participants", state.participants),
            ("still to come back", state.survivors),
            ("wait list", state.wait_list),
            ("spares", state.redundancy_list),
            ("stragglers", state.stragglers),
        ):
            if nodes:
                yield f"{title}: {' '.join(node.addr for node in nodes)}"

    def _news(self) -> list[str]:
        """Return what agents have learned just now; check that it agrees with the rules."""
        if self._way is None:
            return []
        check(self.way.state, self.settings)
        lines = [self._learned(happening) for happening in self.way.take_happenings()]
        for name in self._members:
            told = self.way.waiting(name) > 0
            if told and name not in self._should_regroup:
                lines.append(f"{name}: should regroup")
            if not told and name in self._should_regroup:
                lines.append(f"{name}: need not regroup")
            self._should_regroup = self._should_regroup - {name} | ({name} if told else set())
        return sorted(lines, key=natural_text)

    def _learned(self, happening: Happening) -> str:
        name, place = happening.agent, happening.place
        if place is None:
            return f"{name}: {ending(happening.error)}"
        self._check_place(name, place)
        self._held[name] = place
        self._members.add(name)
        self._should_regroup.discard(name)
        return f"{name}: rank {place.rank} of {place.size} in round {place.round}"

    def _check_place(self, name: str, place: Place) -> None:
        """R1, R2: the place is of the record, which is the same for all, and later than before."""
        stored = self.way.state.world
        if stored is not None and stored.name == place.world:
            recorded = self._worlds.setdefault(stored.name, stored)
            assert recorded == stored, "R1: the record was edited"
        world = self._worlds[place.world]
        assert world.members[place.rank].addr == name, "R1: not the place of the record"
        assert (place.size, place.digest) == (len(world.members), world.digest()), "R1: the record"
        former = self._held.get(name)
        if former is not None and former.epoch == place.epoch:
            assert former.round < place.round, "R2: rounds only grow"


def make_settings(
    options: dict[str, str], base: RendezvousSettings | None = None
) -> RendezvousSettings:
    """Return the settings that options describe; what they leave out is as in `base`."""
    given = dict(options)
    former = base or RendezvousSettings("run", 1, 1)

    def duration(name: str, otherwise: timedelta) -> timedelta:
        return timedelta(seconds=seconds(given.pop(name))) if name in given else otherwise

    timeouts = {
        name: duration(name, getattr(former.timeout, name))
        for name in ("join", "last_call", "regroup")
    }
    made = RendezvousSettings(
        run_id=former.run_id,
        min_nodes=int(given.pop("min", former.min_nodes)),
        max_nodes=int(given.pop("max", former.max_nodes)),
        timeout=RendezvousTimeout(**timeouts),
        keep_alive_interval=duration("keep_alive", former.keep_alive_interval),
        keep_alive_max_attempt=int(given.pop("attempts", former.keep_alive_max_attempt)),
        rank_policy=given.pop("policy", former.rank_policy),
        reconnect_grace=duration("grace", former.reconnect_grace),
        node_unit=int(given.pop("unit", former.node_unit)),
        failures_max=int(given.pop("failures", former.failures_max)),
        failures_window=duration("window", former.failures_window),
        cool_down=duration("cool_down", former.cool_down),
    )
    assert not given, f"unknown options: {given}"
    return made


def seconds(text: str) -> float:
    """Return a duration such as `30s`."""
    return float(text.removesuffix("s"))


def ending(error: RendezvousError | None) -> str:
    """Return how a call failed, in words."""
    assert error is not None
    kind = next((said for sort, said in ENDS.items() if type(error) is sort), repr(error))
    if isinstance(error, RendezvousClosedError):
        return f"{kind} ({error.reason})"
    if isinstance(error, RendezvousEvictedError):
        return f"{kind} ({plain(str(error))})"
    if isinstance(error, RendezvousSettingsError):
        differing = str(error).split(": ", 1)[1].split(". ")[0]
        return f"{kind} ({differing})"
    return kind


def read(path: Path) -> Scenario:
    """Return what a scenario file says."""
    blocks = []
    for chunk in path.read_text(encoding="utf-8").strip().split("\n\n"):
        block, ways = Block(), []
        for line in chunk.splitlines():
            if line.split() and line.split()[0] == DIVIDER:
                ways = line.split()[1:] or [*WAYS]
                block.expected |= {way: [] for way in ways}
            elif ways:
                for way in ways:
                    block.expected[way].append(line)
            else:
                block.lines.append(line)
        blocks.append(block)
    return Scenario(path, blocks)


def play(scenario: Scenario, way: str) -> Scenario:
    """Return the scenario with what one way really says."""
    cast = Cast(WAYS[way])
    played = []
    for block in scenario.blocks:
        said = [line for command in block.commands for line in cast.do(command)]
        played.append(Block(block.lines, {way: said}))
    return Scenario(scenario.path, played)


def rewrite(scenario: Scenario) -> str:
    """Return the text of the file with what both ways really say."""
    direct, coordinated = (play(scenario, way).blocks for way in WAYS)
    chunks = []
    for one, other in zip(direct, coordinated, strict=True):
        lines = list(one.lines)
        said = {**one.expected, **other.expected}
        if said["direct"] == said["coordinated"]:
            lines += [DIVIDER, *said["direct"]] if said["direct"] else []
        else:
            for way in WAYS:
                lines += [f"{DIVIDER} {way}", *said[way]]
        chunks.append("\n".join(lines))
    return "\n\n".join(chunks) + "\n"
