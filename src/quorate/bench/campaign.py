"""All samples of one call of `quorate bench`: several backends in turn, several sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from quorate.bench.figures import Row
from quorate.bench.measuring import BENCHES, COORDINATED_ONLY, SIMULATED, Options
from quorate.bench.subjects import Subject, subject
from quorate.errors import RendezvousSettingsError

__all__ = ["measure"]


def measure(
    bench: str,
    backends: Sequence[str],
    sizes: Sequence[int],
    repeat: int,
    options: Options,
    configuration: str,
    show: Callable[[str], None],
) -> list[Row]:
    """Take all samples: of all backends in turn, again and again, so that all see the same load.

    A backend that was not done in time is not asked again at this size, nor at a larger one.

    Args:
        bench: One of `BENCHES`.
        backends: What is measured, see `quorate.bench.subjects.BACKENDS`.
        sizes: The numbers of nodes.
        repeat: How many samples of each there are.
        options: What else was asked for.
        configuration: How to reach etcd.
        show: Is told what happens.

    Raises:
        RendezvousSettingsError: There is no such backend, the benchmark is not for it, or it is
            named twice.
        RendezvousError: Something could not be measured.
    """
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        subjects = [stack.enter_context(subject(name, configuration)) for name in backends]
        for each in subjects:
            _require_measurable(bench, each)
        _require_different(subjects)
        for nodes in sorted(sizes):
            over = {row.backend for row in rows if row.is_over}
            fresh = [Row(each.name, nodes, []) for each in subjects]
            for number in range(repeat):
                for each, row in zip(subjects, fresh, strict=True):
                    if each.name in over or row.is_over:
                        continue
                    show(f"{bench}: {nodes} nodes, {each.name}, {number + 1} of {repeat}")
                    row.samples.append(BENCHES[bench](each, nodes, options))
            rows += [row for row in fresh if row.samples]
    return rows


def _require_measurable(bench: str, each: Subject) -> None:
    if bench in COORDINATED_ONLY and not each.is_coordinated:
        raise RendezvousSettingsError(
            f"`quorate bench {bench}` measures coordinators, and '{each.name}' is none: choose "
            f"among quorate, memory, etcd, etcd://..."
        )
    if bench == "simulate" and each.name not in SIMULATED:
        raise RendezvousSettingsError(
            f"`quorate bench simulate` plays a coordinator that is alone, and '{each.name}' is "
            f"something else: choose among {', '.join(SIMULATED)}."
        )
    if bench == "reattach" and not each.is_durable:
        raise RendezvousSettingsError(
            f"`quorate bench reattach` needs runs that outlive their coordinator, and those of "
            f"'{each.name}' do not: choose among quorate, etcd, etcd://..."
        )


def _require_different(subjects: Sequence[Subject]) -> None:
    names = [each.name for each in subjects]
    for name in names:
        if names.count(name) > 1:
            raise RendezvousSettingsError(
                f"'{name}' is named {names.count(name)} times, and its figures could not be told "
                f"apart: name it once, with a greater --repeat."
            )
