"""How many accelerators this machine has for workers, found out without PyTorch."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["LOOKED_AT", "count_accelerators"]

# What makes a process see some accelerators only: of NVIDIA's, and of AMD's on two levels.
VISIBILITY = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")

NVIDIA = "dev/nvidia[0-9]*"

# The kernel lists AMD's accelerators among all nodes; a processor has the id 0, and that of an
# accelerator which a container may not use cannot be read.
AMD = "sys/class/kfd/kfd/topology/nodes/*/gpu_id"

LOOKED_AT = f"{', '.join(VISIBILITY)}, /{NVIDIA} and /{AMD}"


def count_accelerators(environment: Mapping[str, str], root: Path = Path("/")) -> int:
    """Return how many accelerators the workers of this machine will see.

    The variables of `VISIBILITY` say so if any is set; entries count up to the first one that names
    none, as for CUDA itself. Otherwise it is all that the machine has.

    Args:
        environment: The workers' environment.
        root: Where the machine's files are.
    """
    present = _count_present(root)
    limits = [
        _count_visible(environment[name], present) for name in VISIBILITY if name in environment
    ]
    return min(limits, default=present)


def _count_present(root: Path) -> int:
    return len(list(root.glob(NVIDIA))) or sum(_is_accelerator(path) for path in root.glob(AMD))


def _is_accelerator(gpu_id: Path) -> bool:
    with contextlib.suppress(OSError):
        return gpu_id.read_text(errors="replace").strip() not in ("", "0")
    return False


def _count_visible(text: str, present: int) -> int:
    """Return how many accelerators a list names.

    Args:
        text: Ordinals or ids, separated by commas.
        present: How many the machine has, which ordinals are below; 0 if that is not known, as
            where accelerators have no files.
    """
    count = 0
    for entry in (entry.strip() for entry in text.split(",")):
        is_ordinal = re.fullmatch("[0-9]{1,9}", entry) is not None
        if is_ordinal and 0 < present <= int(entry):
            break
        if not is_ordinal and not entry.upper().startswith(("GPU-", "MIG-")):
            break
        count += 1
    return count
