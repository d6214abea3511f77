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
@click.option("--replay", type=int, help="Play this seed only.")
@click.option("--trace", is_flag=True, help="Keep every event of a run that breaks a rule.")
def main(seeds: str, ways: str, replay: int | None, trace: bool) -> None:
    """Play runs under faults; exit with 1 if a rule was broken in one of them."""
    chosen = ways.split(",")
    unknown = [way for way in chosen if way not in WAYS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(WAYS)}.")
    first, last = (replay, replay) if replay is not None else _range(seeds)
    broken = False
    for way in chosen:
        began_s = time.perf_counter()
        tally = play(way, range(first, last + 1), _show, None if trace else 60)
        _summarize(way, tally, time.perf_counter() - began_s)
        broken |= bool(tally.violations)
    sys.exit(1 if broken else 0)


def _range(seeds: str) -> tuple[int, int]:
    first, _, last = seeds.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError as error:
        raise click.BadParameter(f"{seeds!r} is not like 1-1000.") from error


def _show(result: SimResult) -> None:
    click.echo("\n".join(result.trace))
    click.echo(f"VIOLATION way={result.way} seed={result.seed} nodes={result.nodes}")
    click.echo(f"  {result.violation}")


def _summarize(way: str, tally: Tally, took_s: float) -> None:
    per_minute = 60 * tally.runs / took_s
    click.echo(
        f"{way}: {tally.runs} runs of {tally.nodes / tally.runs:.1f} nodes on average, "
        f"{tally.rounds} rounds, {tally.seconds / 3600:.1f} hours of virtual time, "
        f"{sum(tally.faults.values())} faults, {len(tally.violations)} violations "
        f"({took_s:.0f} s, {per_minute:.0f} runs a minute)"
    )
    for kind, number in sorted(tally.faults.items()):
        click.echo(f"  {number:8} {kind}")


if __name__ == "__main__":
    main()
