"""Plays simulated runs: `python -m quorate.testing.sim --seeds 1-1000`."""

from __future__ import annotations

import sys
import time

import click

from quorate.testing.sim.campaign import WAYS, Tally, play
from quorate.testing.sim.result import SimResult


@click.command()
@click.option("--seeds", default="1-100", show_default=True, help="The first and the last seed.")
@click.option("--ways", default=",".join(WAYS), show_default=True, help="Which ways to play.")
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="How many processes play."
)
@click.option("--replay", type=int, help="Play this seed only.")
@click.option("--trace", is_flag=True, help="Keep every event of a run that breaks a rule.")
def main(seeds: str, ways: str, jobs: int, replay: int | None, trace: bool) -> None:
    """Play runs under faults; exit with 1 if a rule was broken in one of them."""
    chosen = ways.split(",")
    unknown = [way for way in chosen if way not in WAYS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(WAYS)}.")
    first, last = (replay, replay) if replay is not None else _range(seeds)
    summaries = []
    broken = False
    for way in chosen:
        progress = _Progress(way, last - first + 1)
        events_max = None if trace else 60
        tally = play(way, range(first, last + 1), progress.found, events_max, jobs, progress.played)
        progress.clear()
        summaries += _summary(way, tally, progress.took_s)
        broken |= bool(tally.violations)
    click.echo("\n".join(summaries))
    sys.exit(1 if broken else 0)


class _Progress:
    """How far one way is, in one line of a terminal, and its violations as they are found."""

    def __init__(self, way: str, runs: int) -> None:
        self._way = way
        self._runs = runs
        self._began_s = time.perf_counter()
        self._shows = sys.stderr.isatty()

    @property
    def took_s(self) -> float:
        return time.perf_counter() - self._began_s

    def played(self, tally: Tally) -> None:
        per_minute = 60 * tally.runs / self.took_s
        self._show(
            f"{self._way}: {tally.runs} of {self._runs} runs, {tally.rounds} rounds, "
            f"{len(tally.violations)} violations ({per_minute:.0f} runs a minute)"
        )

    def found(self, result: SimResult) -> None:
        self.clear()
        click.echo("\n".join(result.trace))
        click.echo(f"VIOLATION way={result.way} seed={result.seed} nodes={result.nodes}")
        click.echo(f"  {result.violation}")

    def clear(self) -> None:
        self._show("")

    def _show(self, line: str) -> None:
        if self._shows:
            # Back to the beginning of the line, and erase what is there.
            click.echo(f"\r\x1b[K{line}", err=True, nl=False)


def _range(seeds: str) -> tuple[int, int]:
    first, _, last = seeds.partition("-")
    try:
        pair = int(first), int(last or first)
    except ValueError as error:
        raise click.BadParameter(f"{seeds!r} is not like 1-1000.") from error
    if pair[0] > pair[1]:
        raise click.BadParameter(f"{seeds!r} holds no seed: give the first, then the last.")
    return pair


def _summary(way: str, tally: Tally, took_s: float) -> list[str]:
    per_minute = 60 * tally.runs / took_s
    heading = (
        f"{way}: {tally.runs} runs of {tally.nodes / tally.runs:.1f} nodes on average, "
        f"{tally.rounds} rounds, {tally.seconds / 3600:.1f} hours of virtual time, "
        f"{sum(tally.faults.values())} faults, {len(tally.violations)} violations "
        f"({took_s:.0f} s, {per_minute:.0f} runs a minute)"
    )
    return [heading, *(f"  {number:8} {kind}" for kind, number in sorted(tally.faults.items()))]


if __name__ == "__main__":
    main()
