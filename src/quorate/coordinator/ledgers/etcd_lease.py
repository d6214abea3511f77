"""A lease of etcd that is kept alive, and whether it is certain that it lives (R17)."""

from __future__ import annotations

import logging
import threading

from quorate.clock import Clock
from quorate.errors import RendezvousError
from quorate.etcd.client import EtcdClient

__all__ = ["EtcdLease"]

logger = logging.getLogger("quorate.coordinator")

# A lease is kept alive three times in its life. Once that has failed it is urgent: what is left
# has to be enough for a frozen member (2 s) or an election (1-2 s).
RETRY_S = 0.2


class EtcdLease:
    """A lease, and the thread that keeps it alive until it ends or is ended.

    Between two answers of etcd it is certain for no longer than it was granted for, counted on our
    own clock from before it was asked: a lease may live longer in etcd, never shorter.

    Args:
        client: The way to etcd.
        ttl_s: Its time to live, in whole seconds; etcd may give more.
        clock: The time.

    Raises:
        RendezvousError: As the calls of `EtcdClient`.
    """

    def __init__(self, client: EtcdClient, ttl_s: int, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._ended = threading.Event()
        asked_s = clock.monotonic()
        granted = client.grant_lease(ttl_s)
        self.id = granted.lease_id
        self._pause_s = ttl_s / 3
        self._certain_until_s = asked_s + ttl_s
        self._keeper = threading.Thread(target=self._keep_alive, name="quorate-lease", daemon=True)
        self._keeper.start()

    def is_certain(self) -> bool:
        """Return whether it certainly lives."""
        return not self._ended.is_set() and self._clock.monotonic() < self._certain_until_s

    def end(self) -> None:
        """End it, and remove its keys; if etcd does not answer, it lapses by itself."""
        self._ended.set()
        try:
            self._client.revoke_lease(self.id)
        except RendezvousError as error:
            logger.info("a lease could not be ended, it lapses: %s", error)
        self._keeper.join()

    def _keep_alive(self) -> None:
        wait_s = self._pause_s
        while not self._ended.wait(wait_s):
            asked_s = self._clock.monotonic()
            try:
                left_s = self._client.keep_alive(self.id, timeout_s=self._pause_s)
            except RendezvousError as error:
                if wait_s != RETRY_S:
                    logger.warning("%s The lease is not kept alive meanwhile.", error)
                wait_s = RETRY_S
                continue
            if left_s <= 0:
                self._certain_until_s = 0.0
                return
            wait_s = self._pause_s
            self._certain_until_s = asked_s + left_s
