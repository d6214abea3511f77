"""`quorate demo`: a job loses a node and gains one, and ends as if nothing had happened."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

import click
import msgspec

from quorate.api import free_port
from quorate.cli.common import CONTEXT_SETTINGS
from quorate.clock import SystemClock
from quorate.demo.show import Show
from quorate.errors import RendezvousSettingsError

__all__ = ["command"]

COLOURS = {"A": "cyan", "B": "magenta", "C": "blue", "D": "green"}
EXIT_DIFFERENT = 1


@click.command("demo", context_settings=CONTEXT_SETTINGS)
def command() -> None:
    """Watch a real training job survive.

    Three agents on this machine train a classifier of handwritten digits together. The one that
    started the coordinator is killed, a fourth is added; the weights at the end must be those of
    an undisturbed training. Takes about half a minute; needs the extra `demo`.
    """
    if importlib.util.find_spec("numpy") is None:
        raise RendezvousSettingsError(
            "The demo's training job needs numpy: pip install 'quorate[demo]'."
        )
    with tempfile.TemporaryDirectory(prefix="quorate-demo-") as folder:
        show = Show(Path(folder), f"127.0.0.1:{free_port()}", SystemClock(), print_line)
        disturbed, undisturbed = (msgspec.json.decode(result) for result in show.run())
    click.secho("\nwhat happened", bold=True)
    for scene in show.scenes:
        click.echo(f"  {scene.at_s:5.1f} s  {scene.text}")
    same = disturbed["digest"] == undisturbed["digest"]
    click.echo(
        f"\naccuracy {disturbed['accuracy']:.3f} after {disturbed['steps']} steps, undisturbed "
        f"{undisturbed['accuracy']:.3f}: the weights are "
        f"{'the same, bit for bit' if same else 'DIFFERENT'}."
    )
    sys.exit(0 if same else EXIT_DIFFERENT)


def print_line(agent: str, text: str) -> None:
    """Print what an agent said, or without an agent what the director does."""
    if agent:
        click.echo(f"{click.style(agent, fg=COLOURS.get(agent), bold=True)} {text}")
    else:
        click.secho(f"--- {text}", bold=True)
