"""Fixture `cluster`: real programs as processes of their own; see `tests.e2e.cluster`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, running_cluster


@pytest.fixture
def cluster(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Cluster]:
    with running_cluster(tmp_path, free_port()) as cluster:
        yield cluster
        # Shown if the test has failed.
        print(cluster.report())
