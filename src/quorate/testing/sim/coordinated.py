"""A whole run of the coordinated way in one seed: faults first, then healing, then progress."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from quorate.coordinator.entrance.door import Keys
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import AgreedSettings
from quorate.core.state import RendezvousState, capacity
from quorate.credentials import Secrets, Token
from quorate.errors import RendezvousClosedError
from quorate.testing.sim.agent import RUN, SimAgent
from quorate.testing.sim.coordinator import SimCoordinator, Surroundings
from quorate.testing.sim.havoc import Havoc
from quorate.testing.sim.network import Ending, Network
from quorate.testing.sim.operator import SimOperator
from quorate.testing.sim.process import Machine
from quorate.testing.sim.result import SimResult
from quorate.testing.sim.rules import require, violation_of
from quorate.testing.sim.schedule import Schedule
from quorate.testing.sim.seat import SeatedCoordinator, SimSeat
from quorate.testing.sim.setting import draw_node_count, draw_settings
from quorate.testing.sim.trace import Trace, Violation
from quorate.testing.sim.watch import Watch

__all__ = ["SimWorld"]

STEP_S = 0.5
FAULTS_S = (6.0, 16.0)
RESTART_S = (0.1, 2.0)

# How many runs have coordinators that share a ledger, and how many of them.
SHARING = 0.35
SHARERS = (2, 2, 3)

# One seed of so many has a token, by its number: what the others draw stays the same.
LOCKED_EVERY = 7
LOCKED_AT = 3
SECRET = b"the secret of a simulated run"

# Besides the windows of the run's settings: what freezes, redials and stopping workers may take.
SLACK_S = 25.0

# How late a loss may be told: the coordinator's ticks, the network, a judge that looks each second.
TELL_S = 2.5


class SimWorld:
    """One run under faults. `run` plays it; the same seed plays the same again, to the byte.

    Args:
        seed: Whatever is left to chance follows from it.
        events_max: How many events are kept for the trace; `None` for all.

    Attributes:
        schedule: The time, and the chance.
        agents: All agents there ever were.
        coordinators: The present lives of the coordinators: one, or some that share a ledger.
        seat: What several coordinators compete for.
        network: What carries their bytes.
        watch: Checks the rules.
        operator: Gives commands.
    """

    def __init__(self, seed: int, events_max: int | None = 200) -> None:
        self.seed = seed
        self.schedule = Schedule(seed)
        self.trace = Trace(self.schedule, events_max)
        self.nodes = draw_node_count(self.schedule)
        self.settings = draw_settings(self.schedule, self.nodes)
        self.network = Network(self.schedule)
        self.watch = Watch(self.schedule, self.settings, self.trace)
        self.ledger = self.watch.ledger
        self.agents: list[SimAgent] = []
        self._token = Token(Secrets(SECRET)) if seed % LOCKED_EVERY == LOCKED_AT else None
        self.has_node_ids = self.schedule.chance(0.5)
        self._around = Surroundings(
            self.schedule, self.network, self.ledger, self.watch, Keys(self._token)
        )
        self._pids = count(1)
        self._lives = count(1)
        shares = self.schedule.chance(SHARING)
        sharers = self.schedule.random.choice(SHARERS) if shares else 1
        self.seat = SimSeat(self.schedule, self.ledger) if shares else None
        machines = [Machine(self.schedule, f"c{number}") for number in range(sharers)]
        self._endpoints = machines
        self.coordinators = [self._new_coordinator(machine) for machine in machines]
        self.operator = SimOperator(self, machines, self._token)
        self.watch.endings.commands = self.operator.commands
        self._havoc = Havoc(self)

    def run(self) -> SimResult:
        """Play the run to its end."""
        violation = violation_of(self._play)
        trace = tuple(self.trace.lines()) if violation is not None else ()
        rounds = len(self.watch.rules.worlds)
        now_s, faults = self.schedule.now_s, self.trace.faults
        return SimResult(
            "coordinated", self.seed, self.nodes, rounds, now_s, faults, violation, trace
        )

    @property
    def coordinator(self) -> SimCoordinator:
        """The coordinator that decides, or did last."""
        if self.seat is not None:
            for coordinator in self.coordinators:
                if coordinator is self.seat.holder:
                    return coordinator
        return self.coordinators[0]

    def living(self) -> list[SimAgent]:
        """Return the agents that have not ended."""
        return [agent for agent in self.agents if agent.alive]

    def start_agent(
        self,
        machine: Machine | None = None,
        timeout_s: float | None = None,
        settings: AgreedSettings | None = None,
        node_id: str | None = None,
    ) -> SimAgent:
        """Start an agent on a machine, a new one if none is given; it has that one's node id."""
        pid = next(self._pids)
        machine = machine or Machine(self.schedule, f"n{pid}")
        node = NodeDesc(machine.name, pid, 0, f"life{pid}")
        draw = self.schedule.random
        profile = NodeProfile(
            node_id=(node_id or machine.name) if self.has_node_ids else "",
            rank_hint=draw.choice((None, pid)),
            labels={"block": draw.choice("ab")},
            port=7,
        )
        agreed = settings or self.settings.agreed
        agent = SimAgent(
            self.schedule,
            machine,
            self.network,
            self._endpoints,
            node,
            profile,
            agreed,
            self.watch,
            self._token,
        )
        self.agents.append(agent)
        self.watch.agents[str(node)] = agent
        self.trace.note(str(node), "starts")
        agent.handle(agent.start, timeout_s)
        return agent

    def kill_coordinator(
        self, ending: Ending | None, with_ledger: bool, which: SimCoordinator | None = None
    ) -> None:
        """End a coordinator; its next life begins soon.

        Args:
            ending: How its connections end.
            with_ledger: Whether what was stored is still there afterwards.
            which: The one that decides if `None`.
        """
        coordinator = which or self.coordinator
        coordinator.kill(ending)
        self.network.disturb(coordinator.machine.name)
        if not with_ledger:
            self.ledger.records.clear()
        self.schedule.after(self.schedule.between(*RESTART_S), self._restart, coordinator)

    def state(self) -> RendezvousState | None:
        """Return the state as the coordinator that decides has it, if there is one."""
        engine = self.coordinator.engine if self.coordinator.is_certain() else None
        run = engine.runs.get(RUN) if engine is not None else None
        return None if run is None else run.state

    def _play(self) -> None:
        for _ in range(self.nodes):
            self.schedule.after(self.schedule.between(0.0, 1.5), self.start_agent)
        self.schedule.run_until(1.6)
        self._havoc.begin(self.schedule.between(*FAULTS_S))
        self.schedule.run_until(self._havoc.until_s)
        self._havoc.heal()
        self._progress("after healing")
        state = self.state()
        if state is not None and state.complete and not state.closed and self.schedule.chance(0.4):
            self._lose_one(state)
        self.watch.stores.judge()

    def _restart(self, former: SimCoordinator) -> None:
        if former in self.coordinators:
            self.network.disturb(former.machine.name)
            place = self.coordinators.index(former)
            self.coordinators[place] = self._new_coordinator(former.machine)

    def _new_coordinator(self, machine: Machine) -> SimCoordinator:
        name = f"{machine.name}.{next(self._lives)}"
        coordinator = (
            SimCoordinator(self._around, machine, name)
            if self.seat is None
            else SeatedCoordinator(self._around, machine, name, self.seat)
        )
        coordinator.start()
        return coordinator

    def _progress(self, when: str) -> None:
        """Demand that all who live come to rest, in bounded time."""
        timeout = self.settings.timeout
        windows_s = timeout.last_call.total_seconds() + timeout.regroup.total_seconds()
        limit_s = self.schedule.now_s + self.settings.silence_s + 2 * windows_s + SLACK_S
        complaint = "nothing yet"
        rested = 0
        while self.schedule.now_s < limit_s:
            self._replace_the_gone()
            self.schedule.run_until(self.schedule.now_s + STEP_S)
            complaint = next(self._complaints(), "")
            rested = 0 if complaint else rested + 1
            if rested >= 2:
                return
        raise Violation("R8", f"no progress {when}: {complaint}")

    def _complaints(self) -> Iterator[str]:
        """Yield why the run is not at rest."""
        state = self.state()
        if state is None:
            yield "there is no run"
        elif self.seat is not None and self.seat.is_electing:
            # Where nothing can be written, windows pause, and losses are told later (R9).
            yield "etcd is without a leader"
        elif absent := [agent.node for agent in self.living() if not agent.is_attached]:
            yield f"{absent} are not attached"
        elif any(process.frozen for process in (*self.coordinators, *self.living())):
            yield "somebody is still frozen"
        elif unanswered := [agent.node for agent in self.living() if agent.closing is not None]:
            yield f"{unanswered} have no answer to their word that the job has ended"
        elif state.closed:
            yield from self._not_told_of_the_close()
        elif not state.complete:
            yield f"round {state.round} is not complete"
        else:
            yield from self._misplaced(state)

    def _not_told_of_the_close(self) -> Iterator[str]:
        for agent in self.living():
            told = agent.attachment.closed or isinstance(agent.outcome, RendezvousClosedError)
            if not told:
                yield f"{agent.node} does not know that the run is closed"

    def _misplaced(self, state: RendezvousState) -> Iterator[str]:
        waiting = state.wait_list.keys() | state.redundancy_list.keys()
        members = 0
        wanting = [agent for agent in self.living() if not agent.over]
        for agent in wanting:
            if agent.node in state.participants:
                members += 1
                if agent.holding != state.name:
                    yield f"{agent.node} holds {agent.holding}, the world is {state.name}"
                elif agent.attachment.waiting:
                    yield f"{agent.node} is told that somebody waits, and nobody does"
            elif agent.node not in waiting or agent.joining is None:
                yield f"{agent.node} is neither in the world nor waiting for the next"
        if members != len(state.participants):
            yield f"the world of {len(state.participants)} has {members} living members"
        full = min(len(wanting), capacity(state, self.settings))
        full -= full % self.settings.node_unit
        # A world whose members have begun to finish is not disturbed for newcomers.
        if members < full and not state.finishing:
            yield f"{members} of {full} nodes are in the world"

    def _lose_one(self, state: RendezvousState) -> None:
        """End a member, and see that the others hear of it in time (R8)."""
        members = [agent for agent in self.living() if agent.node in state.participants]
        lost = self.schedule.random.choice(members)
        ending = self.schedule.random.choice((Ending.FINISH, None))
        self.trace.note(str(lost.node), "ends, the others must hear: {}", ending)
        # Who was on its way to a coordinator that has just taken over ends unseen.
        is_seen = ending is Ending.FINISH and lost.is_attached_to(self.coordinator)
        lost.kill(ending)
        window_s = self.settings.silence_s
        if is_seen:
            window_s = self.settings.reconnect_grace.total_seconds()
        others = [agent for agent in members if agent is not lost]
        held = {agent: agent.holding for agent in others}
        judge = self.coordinator
        self.schedule.run_until(self.schedule.now_s + window_s + TELL_S)
        while judge is not self.coordinator:
            # One that takes over has not seen the end, and its windows begin with it (R9).
            judge = self.coordinator
            self.schedule.run_until(self.schedule.now_s + self.settings.silence_s + TELL_S)
        for agent in others:
            attachment = agent.attachment
            told = bool(attachment.waiting) or attachment.closed or not agent.alive
            told = told or agent.returning or agent.joining is not None
            told = told or agent.holding != held[agent]
            require(told, "R8", "{} was not told of the loss of {}", agent.node, lost.node)
            self._is_told_why(agent, lost)
        self._progress("after a loss")

    def _is_told_why(self, agent: SimAgent, lost: SimAgent) -> None:
        """Check that whoever still holds the world that was broken knows whom it has lost (R8)."""
        state, attachment = self.state(), agent.attachment
        if state is None or state.closed or lost.node not in state.departed:
            return
        is_idle = agent.alive and agent.joining is None and agent.node not in state.departed
        lacks_it = state.world is not None and agent.holding == state.world.name
        if is_idle and lacks_it and attachment.waiting:
            why = attachment.changed_reason
            # Of many, some are named.
            named = str(lost.node) in why or why.endswith(" more")
            require(named, "R8", "{} heard {!r}, not of {}", agent.node, why, lost.node)

    def _replace_the_gone(self) -> None:
        """Let there be enough nodes for a round, so that progress can be demanded."""
        wanting = sum(not agent.over for agent in self.living())
        for _ in range(self.settings.min_nodes - wanting):
            self.start_agent()
