"""`python -m tests.fuzz [TARGET ...] [--runs N] [--seconds S]`: fuzz targets, guided by coverage.

Each target has a process of its own, one after the other. The inputs that it makes progress with
are kept below `--corpus`, and serve the next run. A finding is kept there as well, as a file
`TARGET-crash-...`, and makes the exit code 1: give the file to `--replay`.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

INPUT_BYTES_MAX = 4096
INPUT_SECONDS_MAX = 20
MEMORY_MIB_MAX = 2048

SEED_SHARE = 0.25
MUTATIONS_MAX = 5


class Outcome(NamedTuple):
    """What came of one target: how many inputs, the edges of our code that they reached."""

    target: str
    inputs: int
    edges: int
    seconds: float
    has_failed: bool


def main() -> int:
    options = parse()
    if options.child:
        fuzz_here(options)
    from tests.fuzz.targets import TARGETS

    if unknown := set(options.targets) - TARGETS.keys():
        sys.exit(f"There is no target {', '.join(unknown)}: choose among {', '.join(TARGETS)}.")
    if options.replay:
        TARGETS[options.targets[0]](options.replay.read_bytes())
        return 0
    outcomes = []
    for name in options.targets or TARGETS:
        outcomes.append(fuzz(name, options))
        print(line(*outcomes[-1]), flush=True)
    total = sum(outcome.inputs for outcome in outcomes)
    failed = [outcome.target for outcome in outcomes if outcome.has_failed]
    print(
        f"{total:,} inputs, {len(failed)} target(s) with a finding: {', '.join(failed) or 'none'}"
    )
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all if none is named")
    parser.add_argument("--runs", type=int, default=-1, help="inputs for each target")
    parser.add_argument("--seconds", type=int, default=10, help="time for each target")
    parser.add_argument(
        "--corpus", type=Path, default=Path(".fuzz"), help="what is kept, and where"
    )
    parser.add_argument("--replay", type=Path, help="run one target on one file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def line(target: str, inputs: int, edges: int, seconds: float, has_failed: bool) -> str:
    end = "FAILED" if has_failed else "ok"
    return f"{target:14} {inputs:>12,} inputs {edges:>6,} edges {seconds:>6.0f} s  {end}"


def fuzz(name: str, options: argparse.Namespace) -> Outcome:
    """Fuzz one target in a process of its own, and read what that says of it."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--child", "--corpus", options.corpus]
    command += ["--runs", str(options.runs), "--seconds", str(options.seconds)]
    start = time.monotonic()
    child = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, errors="replace", check=False
    )
    seconds = time.monotonic() - start
    inputs = [int(number) for number in re.findall(r"^#(\d+)\s", child.stderr, re.MULTILINE)]
    edges = [int(number) for number in re.findall(r"\bcov: (\d+)", child.stderr)]
    if child.returncode:
        print(child.stderr[-4000:], file=sys.stderr)
    return Outcome(
        name, max(inputs, default=0), max(edges, default=0), seconds, child.returncode != 0
    )


def fuzz_here(options: argparse.Namespace) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["quorate"]):
        from tests.fuzz.seeds import SEEDS
        from tests.fuzz.targets import TARGETS
    (name,) = options.targets
    folder = options.corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (folder / f"seed-{number}").write_bytes(seed)
    arguments = {
        "runs": options.runs,
        "max_total_time": options.seconds,
        "max_len": INPUT_BYTES_MAX,
        "timeout": INPUT_SECONDS_MAX,
        "rss_limit_mb": MEMORY_MIB_MAX,
        "artifact_prefix": f"{options.corpus}/{name}-",
        "print_final_stats": 1,
        "seed": 1,
    }
    seeds = [b"", *SEEDS[name]]

    def mutate(data: bytes, bytes_max: int, seed: int) -> bytes:
        """Begin with a seed now and then: what decodes bytes is not ours, and guides nobody."""
        draw = random.Random(seed)
        if draw.random() < SEED_SHARE:
            data = draw.choice(seeds)
        for _ in range(draw.randint(1, MUTATIONS_MAX)):
            data = atheris.Mutate(data, bytes_max)
        return data

    flags = [f"-{key}={value}" for key, value in arguments.items()]
    atheris.Setup([sys.argv[0], *flags, str(folder)], TARGETS[name], custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
