"""Who and where this process is: its descriptor, the endpoint it was given, its own addresses."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import itertools
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from quorate.core.node import NodeDesc
from quorate.errors import RendezvousConnectionError, RendezvousSettingsError

__all__ = [
    "Endpoint",
    "NodeDescGenerator",
    "ResolvedAddress",
    "advertised_address",
    "bind_all",
    "can_bind",
    "is_loopback",
    "is_numeric",
    "listening_addresses",
    "outward_address",
    "own_addresses",
    "parse_rendezvous_endpoint",
    "parse_rendezvous_endpoints",
    "release",
    "resolve",
]

PORT_MAX = 2**16 - 1

# RFC 1035, section 2.3.4: 255 octets, of which two are not text.
HOST_CHARACTERS_MAX = 253

# Addresses of documentation (RFC 5737, RFC 3849): nothing is ever sent to them, the kernel is
# only asked which of its own addresses it would send from.
FAR_AWAY = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))

WILDCARDS = ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))

# A thousand agents may dial in the same instant; the kernel cuts this to its own limit.
BACKLOG_CONNECTIONS = 4096

# With port 0 the first socket picks a port that another family may lack; a few tries suffice.
PORT_ATTEMPTS_MAX = 16

# Errors of `bind` that mean that somebody else has the port.
TAKEN = {errno.EADDRINUSE}


@cache
def release() -> str:
    """Return the release of quorate that runs here; empty where it was not installed."""
    # Slow to import, and needed by those only who join.
    from importlib import metadata

    try:
        return metadata.version("quorate")
    except metadata.PackageNotFoundError:
        return ""


class NodeDescGenerator:
    """Names the nodes of this process; safe to call from several threads."""

    def __init__(self) -> None:
        self._local_ids = itertools.count()

    def generate(self, local_addr: str | None = None) -> NodeDesc:
        """Return a new node's descriptor.

        Args:
            local_addr: The address at which others reach it; the machine's full name if `None`.
        """
        return NodeDesc(
            addr=local_addr or socket.getfqdn(),
            pid=os.getpid(),
            local_id=next(self._local_ids),
            incarnation=secrets.token_hex(8),
        )


class Endpoint(NamedTuple):
    """Where a rendezvous is.

    Args:
        host: A name or an address, without brackets.
        port: The TCP port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ResolvedAddress(NamedTuple):
    """One address of an endpoint, as the socket calls take it.

    Args:
        family: IPv4 or IPv6.
        sockaddr: Address and port, for IPv6 also flow and scope.
    """

    family: socket.AddressFamily
    sockaddr: tuple[Any, ...]

    @property
    def addr(self) -> str:
        """The numeric address."""
        return str(self.sockaddr[0])

    def with_port(self, port: int) -> ResolvedAddress:
        """Return the same address with another port."""
        return ResolvedAddress(self.family, (self.sockaddr[0], port, *self.sockaddr[2:]))


Resolver = Callable[[Endpoint], Sequence[ResolvedAddress]]


def parse_rendezvous_endpoint(endpoint: str | None, default_port: int) -> Endpoint:
    """Read `host[:port]`, where the host is a name, an IPv4 address, or an IPv6 one in brackets.

    Args:
        endpoint: The text; `localhost` if it is empty or `None`.
        default_port: The port if the text has none.

    Raises:
        RendezvousSettingsError: The text is not an endpoint; it is a `ValueError` too.
    """
    text = (endpoint or "").strip()
    if not text:
        return Endpoint("localhost", default_port)
    host, colon, port_text = _split_port(text)
    if not _is_host(host):
        raise RendezvousSettingsError(
            f"The hostname of the rendezvous endpoint '{text}' must be a dot-separated list of "
            f"labels, an IPv4 address, or an IPv6 address in brackets."
        )
    return Endpoint(host, _parse_port(text, port_text) if colon else default_port)


def parse_rendezvous_endpoints(endpoints: str | None, default_port: int) -> list[Endpoint]:
    """Read one or several endpoints, separated by commas; each is tried in turn.

    Args:
        endpoints: The text, as in `c1:29400,c2:29400`.
        default_port: The port of those that name none.

    Raises:
        RendezvousSettingsError: One of them is not an endpoint.
    """
    texts = (endpoints or "").split(",")
    if len(texts) > 1 and not all(text.strip() for text in texts):
        raise RendezvousSettingsError(
            f"The list of rendezvous endpoints '{endpoints}' has an empty entry: write it as "
            f"host1:port1,host2:port2."
        )
    return [parse_rendezvous_endpoint(text, default_port) for text in texts]


def resolve(endpoint: Endpoint) -> list[ResolvedAddress]:
    """Return the IPv4 and IPv6 addresses of an endpoint, in the system's order of preference.

    Raises:
        RendezvousConnectionError: The name cannot be resolved now; it may be later.
    """
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RendezvousConnectionError(
            f"The host name '{endpoint.host}' of the rendezvous endpoint {endpoint} cannot be "
            f"resolved ({reason}): check its spelling and the name service of this machine."
        ) from error
    addresses = [ResolvedAddress(family, sockaddr) for family, _, _, _, sockaddr in found]
    return list(dict.fromkeys(addresses))


def can_bind(address: ResolvedAddress) -> bool:
    """Return whether an address is this machine's: whether a socket here can have it."""
    try:
        with socket.socket(address.family, socket.SOCK_STREAM) as probe:
            probe.bind(address.with_port(0).sockaddr)
    except OSError:
        return False
    return True


def own_addresses(endpoint: Endpoint, resolver: Resolver = resolve) -> list[ResolvedAddress]:
    """Return those of an endpoint's addresses that are this machine's.

    Args:
        endpoint: The endpoint.
        resolver: Finds its addresses.

    Raises:
        RendezvousConnectionError: The name cannot be resolved now.
    """
    return [address for address in resolver(endpoint) if can_bind(address)]


def listening_addresses(endpoint: Endpoint, resolver: Resolver = resolve) -> list[ResolvedAddress]:
    """Return where to listen so that everyone who dials the endpoint is heard.

    Args:
        endpoint: An endpoint of this machine.
        resolver: Finds its addresses.

    Returns:
        Its own addresses if it was given as a loopback one, else every address of the machine,
        because its name may resolve differently on other machines.

    Raises:
        RendezvousConnectionError: The name cannot be resolved now.
    """
    if is_loopback(endpoint.host):
        return own_addresses(endpoint, resolver)
    wildcards = [ResolvedAddress(family, (addr, endpoint.port)) for family, addr in WILDCARDS]
    return [address for address in wildcards if can_bind(address)]


def bind_all(addresses: Sequence[ResolvedAddress], port: int) -> list[socket.socket] | None:
    """Listen on one port of all addresses, or on none.

    Args:
        addresses: Where to listen, see `listening_addresses`.
        port: The port; 0 picks one that is free on all of them.

    Returns:
        The listening sockets, or `None` if somebody else has the port on one of the addresses.

    Raises:
        RendezvousConnectionError: There is no address, or the system refuses for another reason.
    """
    if not addresses:
        raise RendezvousConnectionError(
            f"There is no address to listen on at port {port}: the endpoint has none that is "
            f"this machine's."
        )
    for _ in range(PORT_ATTEMPTS_MAX if port == 0 else 1):
        listeners = _bind_once(addresses, port)
        if listeners is not None:
            return listeners
    return None


def is_numeric(host: str) -> bool:
    """Return whether a host is an address and needs no name service; one with a scope may."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, UnicodeError, ValueError):
            socket.inet_pton(family, host)
            return True
    return False


def is_loopback(host: str) -> bool:
    """Return whether a host is `localhost` or a loopback address, which only this machine reaches.

    Names are not resolved: a machine's own name often stands for 127.0.1.1 on itself alone.
    """
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def advertised_address(
    connection_addr: str,
    endpoint_host: str,
    local_addr: str | None = None,
    outward: Callable[[], str | None] | None = None,
) -> str:
    """Return the address at which an agent tells others to reach it.

    It is the one that its own connection uses. A loopback address is told only where the endpoint
    was given as one; else the connection went through the machine's own name, and other machines
    need its outward address.

    Args:
        connection_addr: The local address of the agent's connection.
        endpoint_host: The host of the endpoint, as it was given.
        local_addr: What the user wants it to be, if anything.
        outward: Finds this machine's outward address; `outward_address` if `None`.
    """
    if local_addr:
        return local_addr
    addr = _without_mapping(connection_addr)
    if not is_loopback(addr) or is_loopback(endpoint_host):
        return addr
    return (outward or outward_address)() or addr


def outward_address() -> str | None:
    """Return the address from which this machine talks to others, `None` if it has none."""
    candidates = itertools.chain(_route_addresses(), _host_name_addresses())
    return next((addr for addr in candidates if not is_loopback(addr)), None)


def _split_port(text: str) -> tuple[str, str, str]:
    """Split an endpoint into its host without brackets, the colon if any, and the port."""
    if text.startswith("[") and text.endswith("]"):
        return text[1:-1], "", ""
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, "", ""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif _is_ipv6(host) or _is_ipv6(text):
        raise RendezvousSettingsError(
            f"The rendezvous endpoint '{text}' is ambiguous: write an IPv6 address in brackets, "
            f"as in [{text}]:29400."
        )
    return host, colon, port


def _is_host(text: str) -> bool:
    is_name = bool(re.fullmatch(r"[\w.-]+", text))
    return len(text) <= HOST_CHARACTERS_MAX and (is_name or _is_ipv6(text))


def _is_ipv6(text: str) -> bool:
    """Return whether a text is an IPv6 address, with a zone if any (RFC 4007, section 11)."""
    try:
        zone = ipaddress.IPv6Address(text).scope_id
    except ValueError:
        return False
    return zone is None or bool(re.fullmatch(r"[\w.-]+", zone))


def _parse_port(text: str, port_text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", port_text) or int(port_text) > PORT_MAX:
        raise RendezvousSettingsError(
            f"The port number of the rendezvous endpoint '{text}' must be an integer from 0 to "
            f"{PORT_MAX}."
        )
    return int(port_text)


def _bind_once(addresses: Sequence[ResolvedAddress], port: int) -> list[socket.socket] | None:
    listeners: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for address in addresses:
            try:
                listener = _listen(address.with_port(port))
            except OSError as error:
                if error.errno in TAKEN:
                    return None
                raise RendezvousConnectionError(
                    f"Listening on {Endpoint(address.addr, port)} was refused "
                    f"({error.strerror}): choose another port, or ask for the right to use this "
                    f"one."
                ) from error
            undo.callback(listener.close)
            listeners.append(listener)
            port = listener.getsockname()[1]
        undo.pop_all()
    return listeners


def _listen(address: ResolvedAddress) -> socket.socket:
    listener = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        # A restarted coordinator must not wait for connections of its former life to be forgotten.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address.sockaddr)
        listener.listen(BACKLOG_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener


def _without_mapping(addr: str) -> str:
    """Return the IPv4 address behind `::ffff:a.b.c.d`, any other address as it is."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(addr)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
    return addr


def _route_addresses() -> Iterable[str]:
    for family, far_away in FAR_AWAY:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far_away, 9))
            yield str(probe.getsockname()[0])


def _host_name_addresses() -> Iterable[str]:
    with contextlib.suppress(RendezvousConnectionError):
        for address in resolve(Endpoint(socket.gethostname(), 0)):
            yield address.addr
