from __future__ import annotations

from pathlib import Path

import pytest

from quorate.launch.accelerators import count_accelerators


@pytest.fixture
def nvidia(tmp_path: Path) -> Path:
    """A machine with four accelerators of NVIDIA's."""
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / "dev" / name).touch()
    return tmp_path


def test_a_machine_without_any_has_none(tmp_path: Path) -> None:
    assert count_accelerators({}, tmp_path) == 0


def test_those_of_nvidia_are_counted_by_their_files(nvidia: Path) -> None:
    assert count_accelerators({}, nvidia) == 4


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        ("0,2", 2),
        (" 1 , 3 ", 2),
        ("0,1,2,3,4,5,6,7", 4),
        ("GPU-8932f937,MIG-4f", 2),
        ("", 0),
        ("-1", 0),
        ("0,-1,1", 1),
        ("NoDevFiles", 0),
        ("\N{ARABIC-INDIC DIGIT TWO}", 0),
        ("9" * 5000, 0),
    ],
)
def test_what_is_hidden_does_not_count(nvidia: Path, visible: str, count: int) -> None:
    assert count_accelerators({"CUDA_VISIBLE_DEVICES": visible}, nvidia) == count


def test_accelerators_without_files_count_if_they_are_named(tmp_path: Path) -> None:
    assert count_accelerators({"CUDA_VISIBLE_DEVICES": "0,1"}, tmp_path) == 2


def test_those_of_amd_are_counted_without_the_processors(tmp_path: Path) -> None:
    nodes = tmp_path / "sys" / "class" / "kfd" / "kfd" / "topology" / "nodes"
    for number, gpu_id in enumerate(("0\n", "0\n", "51432\n", "38216\n", "")):
        (nodes / str(number)).mkdir(parents=True)
        (nodes / str(number) / "gpu_id").write_text(gpu_id)
    (nodes / "forbidden" / "gpu_id").mkdir(parents=True)
    assert count_accelerators({}, tmp_path) == 2
    assert count_accelerators({"HIP_VISIBLE_DEVICES": "1"}, tmp_path) == 1
    both = {"ROCR_VISIBLE_DEVICES": "0,1", "HIP_VISIBLE_DEVICES": "0"}
    assert count_accelerators(both, tmp_path) == 1
