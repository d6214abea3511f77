"""Whose turn it is among those whom it costs much to let in. Pure.

A TLS handshake takes some 1 ms of the coordinator's time, a member's word a tenth of that or less.
What arrives for a handshake therefore waits here, and is looked at for a short while in each turn
of the loop, in which members are heard first (R15). Half of the places go to handshakes that have
begun: were they to wait behind all that have not, none would end before all have begun. Within each
half the turn goes round the peers' networks, and within a network first come, first served: a crowd
that knocks from one network keeps its own waiting, and nobody is locked out.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

__all__ = ["Newcomers", "network_of"]

# Of one IPv6 network a peer may have all addresses (RFC 6177).
IPV6_PREFIX_BITS = 64


def network_of(host: str) -> str:
    """Return the network that a peer speaks for.

    Args:
        host: The peer's address as a number, with or without a scope.
    """
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, IPV6_PREFIX_BITS), strict=False))


class Newcomers:
    """Keeps the turns of connections whose handshake is not over."""

    def __init__(self) -> None:
        self._fresh, self._begun = _Queue(), _Queue()
        self._served_last = self._fresh

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._fresh) + len(self._begun)

    def wait(self, number: int, network: str, has_begun: bool) -> None:
        """Let a connection wait for its turn, which it does once, however often this is called.

        Args:
            number: The connection.
            network: The network of its peer, by `network_of`.
            has_begun: Whether it has had a turn before.
        """
        (self._begun if has_begun else self._fresh).add(number, network)

    def take(self) -> int | None:
        """Return the connection whose turn it is, which waits no more; `None` if nobody waits."""
        turn, other = self._begun, self._fresh
        if self._served_last is turn:
            turn, other = other, turn
        self._served_last = turn if len(turn) else other
        return self._served_last.take()

    def last_of_longest(self) -> int | None:
        """Return who came last of the network that most wait of; `None` if nobody waits."""
        return self._fresh.last_of_longest() or self._begun.last_of_longest()

    def gone(self, number: int) -> None:
        """Note that a connection has ended."""
        self._fresh.remove(number)
        self._begun.remove(number)


class _Queue:
    """First come, first served within a network; the networks by turns."""

    def __init__(self) -> None:
        self._networks: dict[int, str] = {}
        self._lines: OrderedDict[str, OrderedDict[int, None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._networks)

    def add(self, number: int, network: str) -> None:
        if number not in self._networks:
            self._networks[number] = network
            self._lines.setdefault(network, OrderedDict())[number] = None

    def take(self) -> int | None:
        if not self._lines:
            return None
        network, line = self._lines.popitem(last=False)
        number, _ = line.popitem(last=False)
        del self._networks[number]
        if line:
            self._lines[network] = line
        return number

    def last_of_longest(self) -> int | None:
        longest = max(self._lines.values(), key=len, default=None)
        return next(reversed(longest)) if longest is not None else None

    def remove(self, number: int) -> None:
        network = self._networks.pop(number, None)
        if network is not None:
            line = self._lines[network]
            del line[number]
            if not line:
                del self._lines[network]
