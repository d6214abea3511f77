"""The rules, as an observer checks them from outside: what agents are told, what is stored."""

from __future__ import annotations

from collections.abc import Callable, Collection
from traceback import format_exception

from quorate.core.node import NodeDesc
from quorate.core.settings import RendezvousSettings
from quorate.core.state import Place, RendezvousState, World, WorldName, check
from quorate.errors import RendezvousStateError
from quorate.testing.sim.process import Asleep
from quorate.testing.sim.ranks import ranks_due
from quorate.testing.sim.trace import Trace, Violation
from quorate.wire.messages import SUCCEEDED

__all__ = ["WorldRules", "require", "violation_of"]


def require(holds: bool, rule: str, what: str, *arguments: object) -> None:
    """Check something.

    Raises:
        Violation: It does not hold; `arguments` fill the `{}` of `what`.
    """
    if not holds:
        raise Violation(rule, what.format(*arguments))


def violation_of(play: Callable[[], None]) -> Violation | None:
    """Play a run to its end; return the rule that it breaks, if any.

    An error that comes out of it breaks the rule of its own name, and says where it came from.
    """
    try:
        play()
    except Violation as found:
        return found
    except RendezvousStateError as error:
        # Whoever reads a state that no run can have refuses it, before the rules are asked.
        return _broken_invariant(error.__cause__ or error)
    except (Exception, Asleep) as error:
        # A bug that ends a run must not end the campaign: its seed is what is looked for.
        return Violation(type(error).__name__, "".join(format_exception(error)).rstrip())
    return None


def _broken_invariant(error: BaseException) -> Violation:
    """Return the violation behind an error of `quorate.core.state.check`."""
    rule, _, what = str(error).partition(": ")
    return Violation(rule, what or "an invariant of the state is broken")


class WorldRules:
    """What holds of worlds in every way of running: R1 to R7, R12.

    Args:
        settings: The settings of the run.
        trace: Where completed rounds are noted.

    Attributes:
        worlds: The record of every world that was seen.
        may_close: The reasons for which somebody has asked to close the run.
        finished: The nodes that have said that their work is done.
    """

    def __init__(self, settings: RendezvousSettings, trace: Trace) -> None:
        self.worlds: dict[WorldName, World] = {}
        self.may_close: set[str] = set()
        self.finished: set[NodeDesc] = set()
        self._settings = settings
        self._trace = trace
        self._digests: dict[WorldName, tuple[str, int]] = {}
        self._holders: dict[tuple[WorldName, int], NodeDesc] = {}
        self._held: dict[NodeDesc, Place] = {}
        self._newest: dict[str, int] = {}
        self._lives: dict[tuple[str, str], list[NodeDesc]] = {}
        self._closed: dict[str, str] = {}

    def placed(self, node: NodeDesc, place: Place) -> None:
        """Check a place that a node was given, against all others' and its own last one."""
        settings, name = self._settings, place.world
        require(0 <= place.rank < place.size, "R2", "rank {} of {}", place.rank, place.size)
        in_range = settings.min_nodes <= place.size <= settings.max_nodes
        in_range = in_range and place.size % settings.node_unit == 0
        require(in_range, "R2", "world {} has {} members", name, place.size)
        said = (place.digest, place.size)
        known = self._digests.setdefault(name, said)
        require(known == said, "R1", "world {} is {} to some, {} to others", name, known, said)
        holder = self._holders.setdefault((name, place.rank), node)
        require(
            holder == node, "R2", "rank {} of {} is {}'s and {}'s", place.rank, name, holder, node
        )
        last = self._held.get(node)
        if last is not None and last.epoch == place.epoch:
            require(last.round < place.round, "R2", "{} went from {} to {}", node, last.world, name)
        self._held[node] = place
        world = self.worlds.get(name)
        if world is not None:
            fits = len(world.members) == place.size and world.members[place.rank] == node
            require(fits, "R1", "{} was told {} of {}, the record differs", node, place, world)

    def state(self, state: RendezvousState) -> None:
        """Check a state: its invariants, its record, and whether and why it is closed."""
        try:
            check(state, self._settings)
        except AssertionError as error:
            raise _broken_invariant(error) from error
        if state.world is not None:
            self._record(state.world)
        self._closing(state)

    def completed(
        self,
        before: World | None,
        departed: Collection[NodeDesc],
        kept: Collection[NodeDesc],
        state: RendezvousState,
    ) -> None:
        """Check a new world against the last one.

        Args:
            before: The last world of the same epoch.
            departed: Who was lost from it before the new one was completed.
            kept: Whose places were kept before the new one was completed.
            state: The state with the new world.
        """
        after = state.world
        assert after is not None
        members = set(after.members)
        require(
            members.isdisjoint(state.replaced), "R12", "a former incarnation is in {}", after.name
        )
        node_ids = [profile.node_id for profile in after.profiles if profile.node_id]
        require(len(node_ids) == len(set(node_ids)), "R12", "two lives of a node in {}", after.name)
        old = before.members if before is not None else ()
        if state.desired_nodes is None and not members.issubset(old):
            passed_over = [n for n in kept if n not in members and n in state.last_heartbeats]
            require(not passed_over, "R5", "{} were passed over in {}", passed_over, after.name)
        survivors = {node: rank for rank, node in enumerate(old) if node in members}
        for node in departed:
            survivors.pop(node, None)
        policy, profiles = (
            self._settings.rank_policy,
            dict(zip(after.members, after.profiles, strict=True)),
        )
        due = ranks_due(policy, profiles, survivors)
        require(
            list(after.members) == due,
            "R3",
            "{} is {}, should be {}",
            after.name,
            after.members,
            due,
        )

    def _lives_follow_each_other(self, world: World) -> None:
        """Check that no life of a node is in a world that has had an heir before (R12)."""
        for node, profile in zip(world.members, world.profiles, strict=True):
            if not profile.node_id:
                continue
            lives = self._lives.setdefault((world.epoch, profile.node_id), [])
            if node not in lives:
                lives.append(node)
            require(
                lives[-1] == node, "R12", "{} is back in {}, in place of its heir", node, world.name
            )

    def _record(self, world: World) -> None:
        known = self.worlds.get(world.name)
        if known is None:
            newest = self._newest.get(world.epoch, -1)
            require(world.round > newest, "R2", "{} comes after round {}", world.name, newest)
            self._newest[world.epoch] = world.round
            size = len(world.members)
            fits = self._settings.min_nodes <= size <= self._settings.max_nodes
            require(fits, "R4", "{} has {} members", world.name, size)
            self._lives_follow_each_other(world)
            self.worlds[world.name] = world
            self._trace.note("run", "world {}: {}", world.name, world.members)
        elif known is not world:
            require(known == world, "R1", "{} was {}, is {}", world.name, known, world)

    def _closing(self, state: RendezvousState) -> None:
        reason = self._closed.get(state.epoch)
        if reason is not None:
            require(state.closed, "R7", "the closed run is open again")
            same = state.closed_reason == reason
            require(same, "R7", "closed for {!r}, then {!r}", reason, state.closed_reason)
        elif state.closed:
            reason = state.closed_reason
            if state.world is not None and self.finished.issuperset(state.world.members):
                number = state.world.round
                self.may_close.add(f"{SUCCEEDED}: all nodes of round {number} have finished")
            asked = reason in self.may_close
            require(asked, "R7", "nobody asked to close the run for {!r}", reason)
            self._closed[state.epoch] = reason
