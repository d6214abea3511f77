"""All samples of one call: in turn, and no more than are of use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from quorate.bench import campaign
from quorate.bench.campaign import measure
from quorate.bench.figures import Sample
from quorate.bench.measuring import Options
from quorate.bench.subjects import Subject
from quorate.errors import RendezvousSettingsError


class Recorder:
    """Stands for the subjects and the benchmark; `slow` is never in time."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []
        self.shown: list[str] = []

    @contextlib.contextmanager
    def subject(self, name: str, configuration: str) -> Iterator[Subject]:
        assert configuration == "a=b"
        yield Subject(name, lambda *_: contextlib.nullcontext(), name != "floor", name != "memory")

    def sample(self, subject: Subject, nodes: int, options: Options) -> Sample:
        self.taken.append((subject.name, nodes))
        return Sample({} if subject.name == "slow" else {"seconds": 1.0})

    def measure(self, bench: str, backends: list[str], sizes: list[int], repeat: int) -> None:
        rows = measure(bench, backends, sizes, repeat, Options(), "a=b", self.shown.append)
        self.rows = [(row.backend, row.nodes, len(row.samples)) for row in rows]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(campaign, "subject", recorder.subject)
    benches = dict.fromkeys(campaign.BENCHES, recorder.sample)
    monkeypatch.setattr(campaign, "BENCHES", benches)
    return recorder


def test_backends_are_measured_in_turn(recorder: Recorder) -> None:
    recorder.measure("join", ["a", "b"], [20, 10], 2)
    assert recorder.taken == [(name, nodes) for nodes in (10, 20) for name in ("a", "b", "a", "b")]
    assert recorder.rows == [("a", 10, 2), ("b", 10, 2), ("a", 20, 2), ("b", 20, 2)]
    assert recorder.shown[0] == "join: 10 nodes, a, 1 of 2"


def test_what_is_named_twice_is_refused_before_it_is_measured(recorder: Recorder) -> None:
    with pytest.raises(RendezvousSettingsError, match="'b' is named 2 times"):
        recorder.measure("join", ["a", "b", "b"], [10], 2)
    assert recorder.taken == []


def test_what_was_not_in_time_is_not_asked_again(recorder: Recorder) -> None:
    recorder.measure("join", ["slow", "b"], [10, 20], 2)
    assert recorder.taken.count(("slow", 10)) == 1
    assert recorder.rows == [("slow", 10, 1), ("b", 10, 2), ("b", 20, 2)]


@pytest.mark.parametrize(
    ("bench", "backend"),
    [("regroup", "floor"), ("steady", "floor"), ("reattach", "memory"), ("simulate", "etcd")],
)
def test_what_makes_no_sense_is_refused(recorder: Recorder, bench: str, backend: str) -> None:
    with pytest.raises(RendezvousSettingsError, match=f"'{backend}'.*choose among"):
        recorder.measure(bench, [backend], [10], 1)
    assert recorder.taken == []
