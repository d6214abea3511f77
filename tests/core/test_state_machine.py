"""Any order of events: the rules hold after each, and once trouble ends there is a world (R1-R12).

Nodes come, return, leave, die, are taken for dead, are replaced, give up; the operator holds,
resizes and closes; time passes. Every step of every operation is an event of its own, so that
operations of several nodes interleave as they would on several machines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quorate.codec import decode_state, encode_state
from quorate.core.action import Action, RendezvousContext
from quorate.core.completion import nodes_waiting, regroup_over
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.observer import Observer
from quorate.core.ops import RendezvousCloseOp, RendezvousExitOp, RendezvousJoinOp
from quorate.core.state import RendezvousState, World, WorldName, capacity, check
from quorate.core.transitions import apply, drop_stragglers, finish, withdraw
from quorate.errors import RendezvousGracefulExitError, RendezvousReplacedError
from quorate.testing import ManualClock
from tests.core.support import JOIN_S, LAST_CALL_S, REGROUP_S, make_settings

MIN_NODES, MAX_NODES = 2, 4
NAMES = "abcdef"
# Half of the nodes carry an explicit id, under which a later life replaces the one before.
WITH_NODE_ID = "abc"

HEALED_WITHIN_STEPS = 400


class Phase(Enum):
    """What the process of a node is doing."""

    AWAY = "away"
    JOINING = "joining"
    MEMBER = "member"
    DEAD = "dead"


@dataclass
class Life:
    """One process, as it sees itself."""

    node: NodeDesc
    profile: NodeProfile
    phase: Phase = Phase.AWAY
    held: WorldName | None = None
    deadline: float = math.inf


class Rendezvous(RuleBasedStateMachine):
    """One run, driven by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = make_settings(MIN_NODES, MAX_NODES)
        self.state = RendezvousState(epoch="e")
        self.clock = ManualClock()
        self.observer = Observer(self.clock)
        self.incarnations = 0
        self.lives = {name: self.new_life(name) for name in NAMES}
        self.former: list[Life] = []
        self.worlds: dict[WorldName, World] = {}
        self.latest = WorldName("e", 0)

    def new_life(self, name: str) -> Life:
        self.incarnations += 1
        profile = NodeProfile(node_id=name if name in WITH_NODE_ID else "")
        return Life(NodeDesc(name, 1, 0, str(self.incarnations)), profile)

    def ctx(self, life: Life) -> RendezvousContext:
        return RendezvousContext(life.node, self.state, self.settings, self.observer, life.profile)

    def everyone(self) -> list[Life]:
        return [*self.lives.values(), *self.former]

    def step(self, life: Life) -> None:
        """Let a joining node take one step."""
        before = decode_state(encode_state(self.state))
        try:
            decision = RendezvousJoinOp(life.held)(self.ctx(life), life.deadline)
        except RendezvousReplacedError:
            assert life.node in self.state.replaced
            life.phase = Phase.DEAD
            return
        except RendezvousGracefulExitError:
            assert self.state.closed
            life.phase = Phase.AWAY
            return
        apply(self.ctx(life), decision)
        if decision.action in (Action.ERROR_TIMEOUT, Action.ERROR_CLOSED):
            life.phase = Phase.AWAY
        if decision.action is Action.FINISH:
            self.finished(life)
        if self.state.world is not before.world and self.state.world != before.world:
            self.completed(before)

    def finished(self, life: Life) -> None:
        """R1, R2: the answer is the place in the record, of a later world than the last."""
        world = self.state.world
        assert world is not None
        place = world.places()[life.node]
        assert world.members[place.rank] == life.node
        assert self.state.participants[life.node] == place.rank
        assert place.world == self.state.name
        assert life.held is None or life.held.round < place.round, "R2: an old world again"
        life.held = place.world
        life.phase = Phase.MEMBER

    def completed(self, before: RendezvousState) -> None:
        """R3, R4, R5: who has the places, and who leads."""
        world, last = self.state.world, before.world
        assert world is not None
        assert world.name not in self.worlds, "R2: two worlds of one name"
        assert not before.held, "R4: completed while held"
        survivors = [
            node
            for node in (last.members if last else ())
            if node in before.last_heartbeats
            and node not in before.departed
            and node not in before.stragglers
        ]
        newcomers = [node for node in world.members if node not in survivors]
        left_out = [node for node in survivors if node not in world.members]
        assert not (left_out and newcomers), "R5: a newcomer has a survivor's place"
        kept = [node for node in survivors if node in world.members]
        assert last is None or not kept or world.members[0] == kept[0], "R3: who leads"
        for node in kept[1:]:
            assert last is not None
            old_rank = last.members.index(node)
            if old_rank < len(world.members):
                assert world.members[old_rank] == node, "R3: a rank that was not kept"

    def lose(self, life: Life, reason: str) -> None:
        withdraw(self.state, self.settings, life.node, reason, self.observer)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.observer.tick()
        someone = next(iter(self.lives.values()))
        if regroup_over(self.ctx(someone)):
            drop_stragglers(self.state, self.observer)

    @rule(name=st.sampled_from(NAMES), patience_s=st.sampled_from([JOIN_S, 20.0]))
    def calls(self, name: str, patience_s: float) -> None:
        """Join, or return from the world that was given last."""
        life = self.lives[name]
        if life.phase is Phase.DEAD:
            self.former.append(life)
            life = self.lives[name] = self.new_life(name)
        if life.phase is not Phase.JOINING:
            life.phase = Phase.JOINING
            life.deadline = self.clock.monotonic() + patience_s
        self.step(life)

    @rule(name=st.sampled_from(NAMES))
    def goes_on(self, name: str) -> None:
        if self.lives[name].phase is Phase.JOINING:
            self.step(self.lives[name])

    @rule(order=st.permutations(NAMES))
    def all_go_on(self, order: list[str]) -> None:
        for name in order:
            self.goes_on(name)

    @rule(name=st.sampled_from(NAMES))
    def leaves(self, name: str) -> None:
        life = self.lives[name]
        if life.phase is Phase.DEAD:
            return
        life.phase = Phase.AWAY
        for _ in range(3):
            decision = RendezvousExitOp()(self.ctx(life), math.inf)
            apply(self.ctx(life), decision)
        assert decision.action is Action.FINISH
        assert life.node not in self.state.last_heartbeats

    @rule(name=st.sampled_from(NAMES))
    def dies(self, name: str) -> None:
        self.lives[name].phase = Phase.DEAD

    @rule(name=st.sampled_from(NAMES))
    def has_done_its_work(self, name: str) -> None:
        """R7: it will not come back, and nobody regroups when it goes."""
        life = self.lives[name]
        if life.phase is Phase.MEMBER and finish(self.ctx(life)):
            life.phase = Phase.DEAD

    @rule(name=st.sampled_from(NAMES))
    def is_declared_lost(self, name: str) -> None:
        """Rightly or not: a node that lives all the same hears of it and comes again."""
        self.lose(self.lives[name], "silent for 15 s")

    @rule(name=st.sampled_from(NAMES))
    def is_started_again(self, name: str) -> None:
        """R12: a new life begins before anyone has noticed the end of the old one, if it ended."""
        self.former.append(self.lives[name])
        self.lives[name] = self.new_life(name)
        self.calls(name, JOIN_S)

    @precondition(lambda self: self.former)
    @rule(chance=st.randoms(use_true_random=False))
    def a_former_life_goes_on(self, chance: object) -> None:
        life = chance.choice(self.former)  # type: ignore[attr-defined]
        if life.phase is Phase.JOINING:
            self.step(life)

    @rule(seconds=st.sampled_from([1.0, LAST_CALL_S, REGROUP_S, JOIN_S]))
    def time_passes(self, seconds: float) -> None:
        self.pass_time(seconds)

    @rule(held=st.booleans())
    def operator_holds(self, held: bool) -> None:
        self.state.held = held

    # A wish that shrinks a regroup under way finds newcomers in it already, who stay.
    @precondition(lambda self: not self.state.survivors)
    @rule(size=st.sampled_from([None, 1, 2, 3, 9]))
    def operator_resizes(self, size: int | None) -> None:
        self.state.desired_nodes = size

    @rule(really=st.sampled_from([False] * 9 + [True]))
    def someone_closes(self, really: bool) -> None:
        if really:
            life = self.lives["a"]
            apply(self.ctx(life), RendezvousCloseOp("done")(self.ctx(life), math.inf))

    @rule()
    def is_stored_and_loaded(self) -> None:
        """The bytes carry everything."""
        again = decode_state(encode_state(self.state))
        assert again == self.state
        self.state = again

    @invariant()
    def the_state_is_sound(self) -> None:
        check(self.state, self.settings)

    @invariant()
    def worlds_stand(self) -> None:
        """R1, R2"""
        world = self.state.world
        assert self.state.name >= self.latest, "R2: rounds only grow"
        self.latest = self.state.name
        if world is not None:
            assert self.worlds.setdefault(world.name, world) == world, "R1: a world was edited"
            assert MIN_NODES <= len(world.members) <= MAX_NODES, "R2"

    @invariant()
    def the_last_call_has_a_deadline(self) -> None:
        """R4"""
        enough = len(self.state.participants) >= MIN_NODES
        assert (self.state.deadline is not None) == (enough and not self.state.complete)

    @invariant()
    def identities_are_of_nodes_that_are_there_or_gone(self) -> None:
        """R12"""
        for node_id, node in self.state.identities.items():
            gone = self.state.gone.get(node)
            assert (gone or self.state.profiles[node].node_id) == node_id
        assert self.state.replaced.keys().isdisjoint(self.state.last_heartbeats)

    @invariant()
    def departed_nodes_are_of_the_last_world(self) -> None:
        """R8"""
        members = self.state.world.members if self.state.world else ()
        assert self.state.departed.keys() <= set(members)

    @invariant()
    def members_are_told(self) -> None:
        """R8: above 0 if and only if the world of a member should change."""
        for life in self.everyone():
            if life.phase is not Phase.MEMBER:
                continue
            told = nodes_waiting(self.ctx(life), life.held)
            stands = self.state.complete and self.state.name == life.held
            whole = stands and self.state.world is not None and not self.state.departed
            surplus = len(self.state.participants) > capacity(self.state, self.settings)
            if self.state.closed:
                assert told == 0
            elif not whole or surplus:
                assert told > 0
            elif not self.state.wait_list:
                assert told == 0

    def teardown(self) -> None:
        """Trouble ends: the living come to a world of as many as there can be, the rest wait."""
        if self.state.closed or self.state.finishing:
            return
        self.heal()
        for _ in range(HEALED_WITHIN_STEPS):
            if self.is_well():
                return
            self.one_quiet_second()
        raise AssertionError(f"no world although {len(self.living())} live: {self.state}")

    def heal(self) -> None:
        self.state.held, self.state.desired_nodes = False, None
        for life in self.everyone():
            life.deadline = math.inf
            if life.phase is Phase.DEAD:
                self.lose(life, "its process ended")
            if life.phase is Phase.AWAY:
                self.lose(life, "went away")

    def living(self) -> list[Life]:
        return [life for life in self.everyone() if life.phase in (Phase.JOINING, Phase.MEMBER)]

    def is_well(self) -> bool:
        living = self.living()
        if len(living) < MIN_NODES:
            return True
        members = [life for life in living if life.phase is Phase.MEMBER]
        spares = [life for life in living if life.node in self.state.redundancy_list]
        whole = self.state.complete and len(members) == min(len(living), MAX_NODES)
        current = all(life.held == self.state.name for life in members)
        return whole and current and len(members) + len(spares) == len(living)

    def one_quiet_second(self) -> None:
        for life in self.everyone():
            told = life.phase is Phase.MEMBER and nodes_waiting(self.ctx(life), life.held)
            if told:
                life.phase = Phase.JOINING
            if life.phase is Phase.JOINING:
                self.step(life)
                self.the_state_is_sound()
        self.pass_time(1.0)
        self.worlds_stand()


TestRendezvous = Rendezvous.TestCase
TestRendezvous.settings = hypothesis_settings(max_examples=80, stateful_step_count=40)
# A failure must stay readable: no limit but pytest's own.
TestRendezvous = pytest.mark.timeout(60)(TestRendezvous)
