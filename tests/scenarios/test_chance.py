"""Scenarios by chance, in both ways: no rule breaks, and once trouble ends there is a world.

A failure prints the commands that led to it: they make a scenario file.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.scenarios.language import WAYS, Cast

MIN_NODES, MAX_NODES = 2, 3
RUN = f"run min={MIN_NODES} max={MAX_NODES} last_call=10s regroup=20s join=100s"
NAMES = "abcde"
# Some of the nodes carry an explicit id, under which a later life replaces the one before.
NODE_IDS = {"a": "node_id=n0", "b": "node_id=n1"}

# Time enough for losses to be found, for a regroup to end and for newcomers to be told of.
HEALED_WITHIN_S = 120


class Chance(RuleBasedStateMachine):
    """One run and five nodes, each of which may be started several times."""

    way = ""

    def __init__(self) -> None:
        super().__init__()
        self.cast = Cast(WAYS[self.way])
        self.told: list[str] = []
        self.lives = dict.fromkeys(NAMES, 0)
        self.calling: set[str] = set()
        self.members: set[str] = set()
        self.cut_off: set[str] = set()
        self.closed = False
        self.do(RUN)
        for name in NAMES[:MAX_NODES]:
            self.starts(name)

    def do(self, command: str) -> None:
        self.told.append(command)
        try:
            said = self.cast.do(command)
        except AssertionError as error:
            error.add_note("\n".join(self.told))
            raise
        self.told += [f"    {line}" for line in said]
        for line in said:
            heard = re.match(
                r"(?:\+\d+s )?(\S+): (rank|closed|timed out|replaced|not needed)", line
            )
            if heard:
                self.calling.discard(heard[1])
                self.members.discard(heard[1])
                if heard[2] == "rank":
                    self.members.add(heard[1])

    def life(self, name: str) -> str:
        number = self.lives[name]
        return name if number == 1 else f"{name}#{number}"

    def living(self) -> set[str]:
        return self.calling | self.members

    @rule(name=st.sampled_from(NAMES))
    def starts(self, name: str) -> None:
        """A process starts; the one before it may still be alive."""
        self.lives[name] += 1
        self.calling.add(self.life(name))
        if self.lives[name] == 1:
            self.do(f"join {name} {NODE_IDS.get(name, '')}")
        else:
            self.do(f"restart {name}")

    @rule(name=st.sampled_from(NAMES))
    def returns(self, name: str) -> None:
        life = self.life(name)
        if life in self.members:
            self.members.discard(life)
            self.calling.add(life)
            self.do(f"return {life}")

    @rule(name=st.sampled_from(NAMES))
    def leaves(self, name: str) -> None:
        life = self.life(name)
        if life in self.living() - self.cut_off:
            self.members.discard(life)
            self.calling.discard(life)
            self.do(f"leave {life}")

    @rule(name=st.sampled_from(NAMES))
    def dies(self, name: str) -> None:
        life = self.life(name)
        if life in self.living():
            self.members.discard(life)
            self.calling.discard(life)
            self.do(f"die {life}")

    @rule(name=st.sampled_from(NAMES))
    def is_cut_off(self, name: str) -> None:
        life = self.life(name)
        if life in self.living() - self.cut_off:
            self.cut_off.add(life)
            self.do(f"silence {life}")

    @rule()
    def all_are_connected(self) -> None:
        for life in sorted(self.cut_off & self.living()):
            self.do(f"restore {life}")
        self.cut_off.clear()

    @rule(seconds=st.sampled_from([1, 3, 11, 16, 21, 101]))
    def time_passes(self, seconds: int) -> None:
        self.do(f"advance {seconds}s")

    @rule(command=st.sampled_from(["reload", "lose-state", "freeze 20s", "skew a 3600s"]))
    def the_world_is_unkind(self, command: str) -> None:
        if self.lives["a"] or not command.startswith("skew"):
            self.do(command)

    @rule(name=st.sampled_from(NAMES), really=st.sampled_from([False] * 9 + [True]))
    def someone_closes(self, name: str, really: bool) -> None:
        life = self.life(name)
        if really and life in self.living() - self.cut_off:
            self.do(f'close {life} reason="done"')
            self.closed = True

    def teardown(self) -> None:
        if self.closed:
            return
        self.all_are_connected()
        for name in NAMES:
            if self.life(name) not in self.living():
                self.starts(name)
        for _ in range(HEALED_WITHIN_S):
            if self.is_well():
                return
            for life in sorted(self.members):
                if self.cast.way.waiting(life):
                    self.members.discard(life)
                    self.calling.add(life)
                    self.do(f"return {life}")
            self.do("advance 1s")
        raise AssertionError("\n".join(["no world:", *self.told, str(self.cast.way.state)]))

    def is_well(self) -> bool:
        state = self.cast.way.state
        placed = {node.addr for node in state.participants}
        spares = {node.addr for node in state.redundancy_list}
        whole = state.complete and len(placed) == min(len(self.living()), MAX_NODES)
        return whole and placed == self.members and spares == self.calling


@pytest.mark.parametrize("way", WAYS)
def test_any_scenario(way: str) -> None:
    machine = type(f"Chance_{way}", (Chance,), {"way": way})
    settings = hypothesis_settings(max_examples=25, stateful_step_count=20)
    run_state_machine_as_test(machine, settings=settings)
