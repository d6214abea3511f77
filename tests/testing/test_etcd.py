from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quorate.errors import RendezvousConnectionError
from quorate.testing.etcd import EtcdCluster
from tests.launch.scripted import is_running

pytestmark = pytest.mark.etcd


def test_members_form_a_cluster_that_outlives_one_of_them(until: Callable[..., Any]) -> None:
    cluster = EtcdCluster()
    with cluster, cluster.client() as client:
        pids = [member.pid for member in cluster.members]
        assert len(set(cluster.endpoints)) == 3
        client.put(b"k", b"v")
        leader = cluster.leader()
        leader.kill()

        def another_leads() -> bool:
            try:
                return cluster.leader() is not leader
            except RendezvousConnectionError:
                return False

        until(another_leads, timeout_s=10.0)
        assert client.range(b"k").kvs[0].value == b"v"
        leader.start()
        cluster.await_ready()
        assert leader.is_running
    assert not any(is_running(pid) for pid in pids)
    with pytest.raises(RendezvousConnectionError, match="No member"):
        cluster.leader()
