from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from quorate.core.state import Place
from quorate.launch.files import WorkerFiles
from quorate.launch.wards import Wards


def a_place(epoch: str = "e1", round: int = 0) -> Place:
    return Place(epoch, round, 0, 1, "digest", "node1", 29501, 0, 1)


@pytest.fixture
def wards() -> Iterator[Wards]:
    with Wards(grace_s=0.0) as wards:
        yield wards


def test_files_are_kept_by_run_epoch_round_and_rank(tmp_path: Path, wards: Wards) -> None:
    files = WorkerFiles("job17", tmp_path, wards)
    assert files.log(0) is None
    files.begin(a_place("8f3a12bc", 4))
    assert files.log(3) == tmp_path / "job17" / "8f3a12bc-4" / "3.log"
    assert files.error(3) == tmp_path / "job17" / "8f3a12bc-4" / "3.error.json"
    assert (tmp_path / "job17" / "8f3a12bc-4").is_dir()


def test_a_round_that_is_begun_again_has_another_folder(tmp_path: Path, wards: Wards) -> None:
    files = WorkerFiles("job", tmp_path, wards)
    names = []
    for place in (a_place(), a_place(), a_place(), a_place(round=1), a_place("e2", 1)):
        files.begin(place)
        log = files.log(0)
        assert log is not None
        names.append(log.parent.name)
    assert names == ["e1-0", "e1-0.1", "e1-0.2", "e1-1", "e2-1"]


@pytest.mark.parametrize(
    ("run_id", "name"),
    [
        ("job 17/a", "job%2017%2Fa"),
        ("..", "%2E."),
        (".hidden", "%2Ehidden"),
        ("a\0\n", "a%00%0A"),
        ("\udcff", "%3F"),
        ("\N{SNOWMAN}" * 100, ("%E2%98%83" * 100)[:200]),
    ],
)
def test_a_runs_id_is_made_a_name(tmp_path: Path, wards: Wards, run_id: str, name: str) -> None:
    files = WorkerFiles(run_id, tmp_path, wards)
    files.begin(a_place(epoch=""))
    assert files.log(0) == tmp_path / name / "0" / "0.log"


def test_a_relative_folder_stays_where_it_was(
    tmp_path: Path, wards: Wards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = WorkerFiles("job", Path("logs"), wards)
    monkeypatch.chdir("/")
    files.begin(a_place())
    assert files.error(0) == tmp_path / "logs" / "job" / "e1-0" / "0.error.json"


def test_errors_alone_lie_in_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Wards(grace_s=0.0) as wards:
        files = WorkerFiles("job", None, wards)
        files.begin(a_place())
        error = files.error(0)
        assert files.log(0) is None
        assert error is not None
        error.write_text("{}")
        files.begin(a_place(round=1))
        assert files.error(0) != error
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())


def test_without_a_place_for_temporary_files_errors_are_not_kept(
    tmp_path: Path, wards: Wards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    files = WorkerFiles("job", None, wards)
    files.begin(a_place())
    assert files.error(0) is None
