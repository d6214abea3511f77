"""What goes wrong in a simulated run of the coordinated way, drawn from its seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Protocol

import msgspec

from quorate.core.settings import AgreedSettings, RendezvousSettings
from quorate.core.state import RendezvousState
from quorate.testing.sim.agent import SimAgent
from quorate.testing.sim.coordinator import SimCoordinator
from quorate.testing.sim.ledger import SimLedger
from quorate.testing.sim.network import Ending, Network
from quorate.testing.sim.operator import SimOperator
from quorate.testing.sim.process import Machine
from quorate.testing.sim.schedule import Schedule
from quorate.testing.sim.seat import SimSeat
from quorate.testing.sim.trace import Trace
from quorate.testing.sim.watch import Watch
from quorate.wire.messages import FAILED, SUCCEEDED

__all__ = ["Havoc", "Target"]

PAUSE_S = (0.1, 1.6)
SHORT_S = (0.2, 3.0)
LONG_S = (3.0, 9.0)

STRANGER_S = 1.5

# An end of the run is a fault like others; it ends what can be seen, so most runs have none.
CLOSING = 0.15


class Target(Protocol):
    """The world in which things go wrong."""

    schedule: Schedule
    trace: Trace
    settings: RendezvousSettings
    network: Network
    watch: Watch
    ledger: SimLedger
    seat: SimSeat | None
    coordinators: list[SimCoordinator]
    operator: SimOperator

    @property
    def coordinator(self) -> SimCoordinator:
        """The coordinator that decides, or did last."""
        ...

    def living(self) -> list[SimAgent]:
        """Return the agents that have not ended."""
        ...

    def state(self) -> RendezvousState | None:
        """Return the state as the coordinator that decides has it, if there is one."""
        ...

    def start_agent(
        self,
        machine: Machine | None = None,
        timeout_s: float | None = None,
        settings: AgreedSettings | None = None,
        node_id: str | None = None,
    ) -> SimAgent:
        """Start an agent on a machine, a new one if none is given; it has that one's node id."""
        ...

    def kill_coordinator(
        self, ending: Ending | None, with_ledger: bool, which: SimCoordinator | None = None
    ) -> None:
        """End a coordinator; its next life begins soon."""
        ...


class Havoc:
    """Injects faults into a world, one after the other.

    Args:
        world: Where.

    Attributes:
        until_s: When the faults end.
    """

    def __init__(self, world: Target) -> None:
        self.until_s = 0.0
        self._world = world
        self._schedule = world.schedule
        self._trace = world.trace
        self._network = world.network
        self._words = count(1)
        self._closes = self._schedule.chance(CLOSING)
        self._has_strangers = self._schedule.chance(0.1)
        self._kinds = self._draw_kinds()

    def begin(self, seconds: float) -> None:
        """Inject faults for so long."""
        self.until_s = self._schedule.now_s + seconds
        self._next()

    def heal(self) -> None:
        """Take every fault back that does not pass by itself; those who are gone stay away."""
        self._trace.note("world", "heals")
        world = self._world
        self._network.unblock_all()
        self._network.be_quick()
        self._network.dark.clear()
        self._mend_ledger()
        world.ledger.go_on()
        for process in (*world.coordinators, *world.living()):
            process.crash = None
        if world.seat is not None:
            world.seat.cut_off.clear()
        world.operator.heal()
        for agent in world.living():
            if agent.over:
                agent.kill(Ending.FINISH)
            agent.stuck = False
            agent.handle(agent.turn_over)

    def _next(self) -> None:
        if self._schedule.now_s >= self.until_s:
            return
        self._schedule.random.choice(self._kinds)()
        self._schedule.after(self._schedule.between(*PAUSE_S), self._next)

    def _draw_kinds(self) -> list[Callable[[], None]]:
        """Return what may happen in this run: a part of all kinds, so that each run differs."""
        agents: list[Callable[[], None]] = [
            self._kill_agent,
            self._crash_agent,
            self._lose_machine,
            self._freeze_agent,
            self._restart_agent,
            self._second_life,
            self._heir,
            self._leave,
            self._newcomer,
            self._impatient_newcomer,
            self._give_up,
            self._slow_caller,
            self._stuck_caller,
            self._finish,
            self._failure_of_a_loss,
            self._workers_fail,
        ]
        network = [
            self._reset,
            self._half_open,
            self._partition_agent,
            self._partition_coordinator,
            self._slow_network,
        ]
        coordinator: list[Callable[[], None]] = [
            self._kill_coordinator,
            self._lose_ledger,
            self._crash_coordinator,
            self._freeze_coordinator,
            self._stall_ledger,
            self._slow_ledger,
            self._fail_ledger,
            self._jump_clock,
            self._operate,
            self._change_mind,
        ]
        if self._world.seat is not None:
            # What they share does not get lost.
            coordinator.remove(self._lose_ledger)
            coordinator += [self._lose_seat, self._elect, self._hand_over]
        kinds: list[Callable[[], None]] = [self._use_store, self._use_store]
        for group in (agents, network, coordinator):
            kinds += self._schedule.random.sample(group, self._schedule.random.randint(1, 4))
        if self._closes:
            kinds.append(self._close)
        if self._has_strangers:
            kinds = [kind for kind in kinds if kind != self._lose_ledger]
            kinds.append(self._stranger)
        return kinds

    def _any_agent(self) -> SimAgent | None:
        living = self._world.living()
        return self._schedule.random.choice(living) if living else None

    def _any_coordinator(self) -> SimCoordinator:
        """Return the coordinator that decides, or sometimes one that stands by."""
        if self._world.seat is None or self._schedule.chance(0.7):
            return self._world.coordinator
        return self._schedule.random.choice(self._world.coordinators)

    def _some_agents(self) -> list[SimAgent]:
        living = self._world.living()
        most = max(1, len(living) // 3)
        return self._schedule.random.sample(living, min(len(living), self._upto(most)))

    def _upto(self, most: int) -> int:
        """Return a number up to `most`; one is the most likely."""
        return 1 if self._schedule.chance(0.6) else self._schedule.random.randint(1, most)

    def _duration_s(self) -> float:
        return self._schedule.between(*(SHORT_S if self._schedule.chance(0.6) else LONG_S))

    # Agents.

    def _kill_agent(self) -> None:
        for agent in self._some_agents():
            ending = self._schedule.random.choice((Ending.FINISH, Ending.RESET))
            self._trace.fault("agent killed", str(agent.node), "{}", ending)
            agent.kill(ending)

    def _crash_agent(self) -> None:
        """End agents where they wait: between any two turns of their loops."""
        for agent in self._some_agents():
            turns = self._schedule.random.randint(1, 15)
            again = self._schedule.chance(0.5)
            text = "in {} turns, again={}"
            self._trace.fault("agent crashes", str(agent.node), text, turns, again)
            agent.crash = (turns, partial(self._end_agent, agent, again))

    def _end_agent(self, agent: SimAgent, again: bool) -> None:
        self._trace.note(str(agent.node), "crashes")
        agent.kill(self._schedule.random.choice((Ending.FINISH, Ending.RESET)))
        if again:
            wait_s = self._schedule.between(0.0, 2.0)
            self._schedule.after(wait_s, self._world.start_agent, agent.machine)

    def _lose_machine(self) -> None:
        agent = self._any_agent()
        if agent is not None:
            self._trace.fault("machine lost", str(agent.node))
            self._network.dark.add(agent.machine.name)
            agent.kill(None)

    def _freeze_agent(self) -> None:
        for agent in self._some_agents():
            seconds = self._duration_s()
            self._trace.fault("agent frozen", str(agent.node), "for {:.1f} s", seconds)
            self._network.disturb(agent.machine.name)
            agent.freeze(seconds)
            self._schedule.after(seconds, self._network.disturb, agent.machine.name)

    def _restart_agent(self) -> None:
        agent = self._any_agent()
        if agent is not None:
            self._trace.fault("agent restarted", str(agent.node))
            agent.kill(self._schedule.random.choice((Ending.FINISH, Ending.RESET)))
            wait_s = self._schedule.between(0.0, 2.0)
            self._schedule.after(wait_s, self._world.start_agent, agent.machine)

    def _second_life(self) -> None:
        agent = self._any_agent()
        if agent is not None and agent.machine.name not in self._network.dark:
            self._trace.fault("two lives of a node", str(agent.node))
            self._world.start_agent(agent.machine)

    def _heir(self) -> None:
        """Let a machine be cut off for longer than a silence, and another one take its place."""
        agent = self._any_agent()
        if agent is None or not agent.profile.node_id:
            return
        silence_s = self._world.settings.silence_s
        self._trace.fault("heir of a node that is cut off", str(agent.node))
        name = agent.machine.name
        ways = [(name, one.machine.name) for one in self._world.coordinators]
        ways += [(there, here) for here, there in ways]
        self._network.block(ways)
        started_s = silence_s + self._schedule.between(0.5, 2.0)
        start = partial(self._world.start_agent, node_id=agent.profile.node_id)
        self._schedule.after(started_s, start)
        self._schedule.after(
            started_s + self._schedule.between(0.0, 3.0), self._network.unblock, ways
        )

    def _leave(self) -> None:
        agent = self._any_agent()
        if agent is not None and not agent.frozen:
            self._trace.fault("agent leaves", str(agent.node))
            agent.handle(agent.leave)

    def _newcomer(self) -> None:
        if len(self._world.living()) < self._world.settings.max_nodes + 3:
            self._trace.fault("newcomer", "world")
            self._world.start_agent()

    def _impatient_newcomer(self) -> None:
        timeout_s = self._duration_s()
        self._trace.fault("newcomer times out", "world", "after {:.1f} s", timeout_s)
        self._world.start_agent(timeout_s=timeout_s)

    def _give_up(self) -> None:
        agent = self._any_agent()
        if agent is not None:
            self._trace.fault("caller gives up", str(agent.node))
            agent.handle(agent.give_up)

    def _slow_caller(self) -> None:
        for agent in self._some_agents():
            agent.slow_s = self._schedule.between(1.0, 9.0)
            self._trace.fault("straggler", str(agent.node), "by {:.1f} s", agent.slow_s)

    def _stuck_caller(self) -> None:
        agent = self._any_agent()
        if agent is not None:
            self._trace.fault("caller stuck", str(agent.node))
            agent.stuck = True

    def _finish(self) -> None:
        agent = self._any_agent()
        if agent is None or agent.frozen:
            return
        self._trace.fault("member finishes", str(agent.node))
        self._world.watch.rules.finished.add(agent.node)
        agent.handle(agent.finish)

    def _stranger(self) -> None:
        state = self._world.state()
        if state is None or len(state.last_heartbeats) < self._world.settings.min_nodes:
            # The first node of a run sets what the others must agree on.
            return
        self._trace.fault("node with other settings", "world")
        agreed = self._world.settings.agreed
        other = msgspec.structs.replace(agreed, max_nodes=agreed.max_nodes + agreed.node_unit)
        stranger = self._world.start_agent(settings=other)
        # It does not stay: where all others were lost meanwhile, it is the run's first node.
        self._schedule.after(STRANGER_S, stranger.kill, Ending.FINISH)

    def _use_store(self) -> None:
        for agent in self._some_agents():
            agent.handle(agent.use_store)

    def _close(self) -> None:
        agent = self._any_agent()
        if agent is None or self._schedule.now_s < self.until_s - 4.0:
            return
        outcome = self._schedule.random.choice(("", SUCCEEDED, FAILED, None))
        if outcome is None:
            self._world.watch.rules.may_close.add("by the operator: enough")
            self._world.operator.close("enough")
            return
        reason = f"{agent.node} says {outcome or 'stop'}"
        self._trace.fault("close", str(agent.node), "{}", outcome)
        self._say(agent, reason, outcome)

    def _say(self, agent: SimAgent, what: str, outcome: str) -> None:
        # A node may say the same again in another world, where it has another reason.
        reason = f"{what} ({next(self._words)})"
        self._world.watch.rules.may_close.add(reason)
        if outcome:
            self._world.watch.judging(reason, agent)
        if outcome == FAILED:
            self._world.watch.failing(reason, agent)
        agent.handle(agent.close, reason, outcome)

    def _failure_of_a_loss(self) -> None:
        """Let a member die, and another one's job fail of it soon after (R7)."""
        holding = [agent for agent in self._world.living() if agent.place is not None]
        if len(holding) < 2:
            return
        lost, other = self._schedule.random.sample(holding, 2)
        ending = self._schedule.random.choice((Ending.FINISH, Ending.RESET, None))
        self._trace.fault(
            "job fails of a loss", str(lost.node), "{}, {} sees it", ending, other.node
        )
        if ending is None:
            self._network.dark.add(lost.machine.name)
        lost.kill(ending)
        wait_s = self._schedule.between(0.0, 1.0)
        self._schedule.after(wait_s, self._fail_unless_dead, other)

    def _fail_unless_dead(self, agent: SimAgent) -> None:
        if agent.alive and not agent.frozen:
            self._say(agent, f"{agent.node} has failed", FAILED)

    def _workers_fail(self) -> None:
        """Let members come back all at once and unasked, most of them while a write is under way.

        That is what a job does whose collective operations fail. The few that do not come may be
        the very ones that the operator lets go meanwhile.
        """
        members = self._working()
        few = self._schedule.random.sample(members, min(len(members) // 2, self._upto(3)))
        if not few:
            return
        back = [agent for agent in members if agent not in few]
        names = [str(agent.node) for agent in few]
        self._trace.fault("workers fail", "world", "but not those of {}", names)
        for agent in back:
            agent.handle(agent.use_store)
        self._world.ledger.stalled = True
        self._schedule.after(self._schedule.between(0.5, 1.5), self._world.ledger.go_on)
        for agent in back:
            agent.slow_s = 0.0
            agent.handle(agent.come_back)
        if self._schedule.chance(0.5):
            for agent in few:
                self._world.operator.drain(agent)
        else:
            self._world.operator.scale(len(back))

    def _working(self) -> list[SimAgent]:
        return [agent for agent in self._world.living() if agent.is_working and not agent.frozen]

    # The network.

    def _reset(self) -> None:
        for agent in self._some_agents():
            self._trace.fault("connection reset", str(agent.node))
            self._network.disturb(agent.machine.name)
            agent.cut(Ending.RESET)

    def _half_open(self) -> None:
        for agent in self._some_agents():
            self._trace.fault("connection half open", str(agent.node))
            self._network.disturb(agent.machine.name)
            agent.cut(None)

    def _partition_agent(self) -> None:
        agents = self._some_agents()
        self._partition([agent.machine.name for agent in agents], "partition")

    def _partition_coordinator(self) -> None:
        names = sorted({agent.machine.name for agent in self._world.living()})
        self._partition(names, "coordinator cut off")

    def _partition(self, names: list[str], kind: str) -> None:
        here = self._any_coordinator().machine.name
        up = [(name, here) for name in names]
        down = [(here, name) for name in names]
        which = self._schedule.random.choice(("both ways", "up", "down"))
        ways = {"both ways": up + down, "up": up, "down": down}[which]
        seconds = self._duration_s()
        self._trace.fault(f"{kind} ({which})", ",".join(names)[:20], "for {:.1f} s", seconds)
        self._network.block(ways)
        self._schedule.after(seconds, self._network.unblock, ways)

    def _slow_network(self) -> None:
        self._trace.fault("slow and lossy network", "network")
        self._network.be_slow()
        self._schedule.after(self._duration_s(), self._network.be_quick)

    # The coordinator.

    def _kill_coordinator(self) -> None:
        if self._world.coordinator.alive:
            self._trace.fault("coordinator killed", self._world.coordinator.name)
            ending = self._schedule.random.choice((Ending.FINISH, Ending.RESET, None))
            which = self._schedule.random.choice(self._world.coordinators)
            self._world.kill_coordinator(ending, with_ledger=True, which=which)

    def _crash_coordinator(self) -> None:
        """End the coordinator where it waits: with a write under way, or answers let out."""
        coordinator = self._world.coordinator
        turns = self._schedule.random.randint(1, 60)
        self._trace.fault("coordinator crashes", coordinator.name, "in {} turns", turns)
        coordinator.crash = (turns, partial(self._end_coordinator, coordinator))

    def _end_coordinator(self, coordinator: SimCoordinator) -> None:
        self._trace.note(coordinator.name, "crashes")
        self._world.kill_coordinator(Ending.RESET, with_ledger=True, which=coordinator)

    def _hand_over(self) -> None:
        coordinator = self._world.coordinator
        if coordinator.alive and not coordinator.frozen:
            self._trace.fault("coordinator ends in order", coordinator.name)
            coordinator.resign()
            self._world.kill_coordinator(Ending.FINISH, with_ledger=True, which=coordinator)

    def _elect(self) -> None:
        """Let etcd be without a leader, once or several times in a row."""
        delay_s = 0.0
        for _ in range(self._upto(4)):
            seconds = self._schedule.between(0.5, 2.5)
            self._trace.fault("etcd elects a leader", "etcd", "in {:.1f} s", seconds)
            self._schedule.after(delay_s, self._elect_unless_healed, seconds)
            delay_s += seconds + self._schedule.between(0.2, 1.0)

    def _elect_unless_healed(self, seconds: float) -> None:
        if self._schedule.now_s < self.until_s:
            assert self._world.seat is not None
            self._world.seat.elect(seconds)

    def _lose_ledger(self) -> None:
        if self._world.coordinator.alive and self._schedule.chance(0.5):
            self._trace.fault("journal lost", self._world.coordinator.name)
            self._world.kill_coordinator(Ending.RESET, with_ledger=False)

    def _lose_seat(self) -> None:
        """Cut a coordinator off from what keeps the seat, for longer than its lease lasts."""
        coordinator = self._schedule.random.choice(self._world.coordinators)
        seconds = self._duration_s()
        name = coordinator.machine.name
        self._trace.fault("coordinator cut off from etcd", name, "for {:.1f} s", seconds)
        assert self._world.seat is not None
        self._world.seat.cut_off.add(name)
        self._schedule.after(seconds, self._world.seat.cut_off.discard, name)

    def _freeze_coordinator(self) -> None:
        seconds = self._duration_s() * 2
        coordinator = self._any_coordinator()
        name = coordinator.machine.name
        self._trace.fault("coordinator frozen", name, "for {:.1f} s", seconds)
        self._network.disturb(name)
        coordinator.freeze(seconds)
        self._schedule.after(seconds, self._network.disturb, name)

    def _stall_ledger(self) -> None:
        self._trace.fault("writes stall", "ledger")
        self._world.ledger.stalled = True
        self._schedule.after(self._duration_s(), self._world.ledger.go_on)

    def _slow_ledger(self) -> None:
        self._trace.fault("writes slow", "ledger")
        self._world.ledger.slow = True
        self._schedule.after(self._duration_s(), self._mend_ledger)

    def _fail_ledger(self) -> None:
        self._trace.fault("writes fail or lose their reply", "ledger")
        self._world.ledger.failing = 0.6
        self._schedule.after(self._duration_s(), self._mend_ledger)

    def _mend_ledger(self) -> None:
        self._world.ledger.failing = 0.0
        self._world.ledger.slow = False

    def _jump_clock(self) -> None:
        agent = self._any_agent()
        machine = self._world.coordinator.machine
        if agent is not None and self._schedule.chance(0.5):
            machine = agent.machine
        machine.skew_s += self._schedule.between(-1800.0, 1800.0)
        self._trace.fault("wall clock jumps", machine.name, "to {:.0f} s", machine.skew_s)

    def _operate(self) -> None:
        self._world.operator.act()

    def _change_mind(self) -> None:
        """Let the operator wish for another size, and not any more before anybody has come back.

        Members are busy, and the connections of some are reset meanwhile.
        """
        members = self._working()
        settings, operator = self._world.settings, self._world.operator
        wish = len(members) - settings.node_unit
        if wish < settings.min_nodes:
            return
        back_s = self._schedule.between(0.1, 0.8)
        self._trace.fault("change of mind", "operator", "{} nodes, for {:.1f} s", wish, back_s)
        for agent in members:
            agent.slow_s = self._schedule.between(1.0, 4.0)
        operator.scale(wish)
        self._schedule.after(back_s, operator.scale, None)
        for agent in self._some_agents():
            cut_s = back_s + self._schedule.between(-0.1, 0.02)
            self._network.disturb(agent.machine.name)
            self._schedule.after(cut_s, agent.cut, Ending.RESET)
