"""Random play: after each step each agent that is at work knows whether to regroup (R8).

What it was told last is compared with a fresh look at the state. A seed is replayed with `play`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from random import Random

import pytest

from quorate.coordinator.engine.holdings import EMPTY_KEPT_S
from quorate.core.completion import nodes_waiting
from quorate.core.settings import RendezvousTimeout
from quorate.core.state import prospects
from quorate.wire.messages import (
    FAILED,
    SUCCEEDED,
    Drain,
    Evict,
    Finish,
    Hold,
    OperatorRequest,
    Release,
    Scale,
)
from tests.coordinator.driver import RUN, Agent, Driver

SEEDS = 240
STEPS = 60
PART = 30

TIMEOUT = RendezvousTimeout(regroup=timedelta(seconds=5), last_call=timedelta(seconds=3))


class Game:
    """A run of some nodes, and what happens to it.

    Attributes:
        moves: What has happened, and to which node.
    """

    def __init__(self, seed: int) -> None:
        self.draw = draw = Random(seed)
        self.unit = draw.choice((1, 1, 2))
        self.least = self.unit * draw.choice((1, 1, 2))
        self.most = self.least + self.unit * draw.randint(0, 3)
        self.driver = Driver(
            self.least,
            self.most,
            node_unit=self.unit,
            failures_max=draw.choice((0, 0, 2)),
            cool_down=timedelta(seconds=5),
            timeout=TIMEOUT,
        )
        self.ids = [draw.choice(("", f"id{number}")) for number in range(draw.randint(2, 9))]
        self.agents = [self._new(number) for number in range(len(self.ids))]
        self.moves: list[tuple[str, int]] = []

    def step(self) -> None:
        """Let something happen, and see that all know what follows."""
        number = self.draw.randrange(len(self.agents))
        (name,) = self.draw.choices(list(MOVES), [odds for odds, _ in MOVES.values()])
        self.moves.append((name, number))
        # A node does not leave and come again at the same moment.
        self.driver.clock.advance(0.001)
        MOVES[name][1](self, number)
        self.check()

    def check(self) -> None:
        driver = self.driver
        if driver.stalled or RUN not in driver.engine.runs:
            return
        state = driver.state
        if state.complete:
            has_prospects = len(state.wait_list) <= prospects(state, driver.run.settings)
            assert has_prospects, "R6: who waits for the next round has no place in it"
        for agent in driver.agents:
            session = driver.run.sessions.get(agent.node)
            if session is None or session.connection != agent.connection:
                continue
            if agent.pending is not None or agent.place is None:
                continue
            waiting = nodes_waiting(driver.run._roll.context(session), session.holding)
            assert bool(agent.told.waiting) == bool(waiting), (str(agent.node), agent.told, waiting)

    def come_again(self, number: int) -> None:
        agent = self.agents[number]
        if agent.connection is None and RUN in self.driver.engine.runs:
            if agent.node in self.driver.state.last_heartbeats:
                agent.reconnect()
            else:
                self.agents[number] = self._new(number)

    def gather(self, _: int) -> None:
        """Let most of those join who do not yet, as after a failure of the job."""
        for agent in self.agents:
            if agent.connection is not None and self.draw.random() < 0.8:
                join(self, agent)

    def meet(self, _: int) -> None:
        """Let all who can join, and wait until there is a world."""
        for number, agent in enumerate(self.agents):
            agent.beats = True
            self.come_again(number)
        self.gather(0)
        self.driver.let_pass(4.0)

    def new_life(self, number: int) -> None:
        self.agents[number] = self._new(number)

    def answer_all(self, _: int) -> None:
        for agent in self.agents:
            if agent.connection is not None and agent.beats:
                agent.ping()

    def turn_silent(self, number: int) -> None:
        self.agents[number].beats = not self.agents[number].beats

    def stall(self, _: int) -> None:
        if RUN in self.driver.engine.runs and self.driver.state.world is not None:
            self.driver.stall()

    def fail_but_one(self, number: int) -> None:
        """Let all others come back within one write, while the operator lets one go."""
        self.stall(number)
        staying = self.agents[number]
        for agent in self.agents:
            if agent.connection is not None and agent is not staying:
                join(self, agent)
        self.driver.operator().say(Drain(1, str(staying.node), "why"))
        self.driver.go_on()

    def change_mind(self, number: int) -> None:
        """Let an operator take a wish back while a node is away."""
        operator, agent = self.driver.operator(), self.agents[number]
        operator.say(Scale(1, self.least))
        agent.cut()
        operator.say(Scale(2, None))
        self.come_again(number)

    def _new(self, number: int) -> Agent:
        return self.driver.agent(f"n{number}", node_id=self.ids[number])


Move = Callable[[Game, int], object]


def connected(say: Callable[[Game, Agent], object]) -> Move:
    """Return a move of an agent that has a connection."""

    def move(game: Game, number: int) -> None:
        agent = game.agents[number]
        if agent.connection is not None:
            say(game, agent)

    return move


def operating(make: Callable[[Game, Agent], OperatorRequest]) -> Move:
    """Return a move of an operator."""
    return lambda game, number: game.driver.operator().say(make(game, game.agents[number]))


def passing(*seconds: float) -> Move:
    """Return a move that lets time pass."""
    return lambda game, _: game.driver.let_pass(game.draw.choice(seconds))


def join(game: Game, agent: Agent) -> None:
    if agent.pending is None:
        agent.join(game.draw.choice((600.0, 600.0, 600.0, 6.0, 1.0)))


def leave(_: Game, agent: Agent) -> None:
    agent.leave("why")
    agent.pending = None


def resize(game: Game, _: Agent) -> Scale:
    sizes = range(game.least, game.most + 1, game.unit)
    return Scale(1, game.draw.choice((None, *sizes)))


MOVES: dict[str, tuple[float, Move]] = {
    "join": (5, connected(join)),
    "gather": (5, Game.gather),
    "meet": (4, Game.meet),
    "leave": (2, connected(leave)),
    "finish": (1, connected(lambda game, agent: agent.say(Finish(next(game.driver.numbers))))),
    "fail": (1, connected(lambda game, agent: agent.close("it broke", FAILED))),
    "succeed": (0.2, connected(lambda game, agent: agent.close("it is done", SUCCEEDED))),
    "cut": (3, lambda game, number: game.agents[number].cut()),
    "end": (2, lambda game, number: game.agents[number].cut(finished=True)),
    "come again": (6, Game.come_again),
    "new life": (2, Game.new_life),
    "turn silent": (1, Game.turn_silent),
    "answer all": (2, Game.answer_all),
    "drain": (2, operating(lambda game, agent: Drain(1, str(agent.node), "why"))),
    "evict": (2, operating(lambda game, agent: Evict(1, str(agent.node), 2.0, "why"))),
    "hold": (2, operating(lambda game, agent: Hold(1, "why"))),
    "release": (2, operating(lambda game, agent: Release(1))),
    "fail but one": (2, Game.fail_but_one),
    "change mind": (2, Game.change_mind),
    "resize": (3, operating(resize)),
    "pass": (6, passing(0.25, 0.5, 1.0, 2.0)),
    "pass long": (2, passing(4.0, 6.0, 17.0)),
    "stall": (3, Game.stall),
    "go on": (5, lambda game, number: game.driver.go_on()),
    "restart": (1, lambda game, number: game.driver.crash()),
}


def play(seed: int) -> None:
    """Play a game.

    Raises:
        AssertionError: A rule was broken, or something failed; it says by which moves.
    """
    game = Game(seed)
    try:
        for _ in range(STEPS):
            game.step()
        game.driver.go_on()
        game.check()
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error!r}, after {game.moves}") from error


@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_r8_all_who_are_at_work_know_whether_to_regroup(first: int) -> None:
    for seed in range(first, first + PART):
        play(seed)


def test_every_move_can_be_made_when_the_run_is_forgotten() -> None:
    for number, (_, move) in enumerate(MOVES.values()):
        game = Game(number)
        for agent in game.agents:
            agent.cut(finished=True)
        game.driver.let_pass(EMPTY_KEPT_S + 4.0)
        assert not game.driver.engine.runs
        move(game, 0)
        game.check()
