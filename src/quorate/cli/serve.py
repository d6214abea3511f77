"""`quorate serve`: a coordinator in the foreground."""

from __future__ import annotations

import importlib.util
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quorate.api import RendezvousParameters
from quorate.backends.journal import Journal
from quorate.cli.common import (
    CONTEXT_SETTINGS,
    DEFAULT_PORT,
    Seconds,
    events_option,
    send_events,
    set_up_logging,
    token_option,
)
from quorate.config import check_keys, parse_rendezvous_config
from quorate.coordinator.engine import CLOSED_KEPT_S
from quorate.coordinator.entrance.door import Keys
from quorate.coordinator.ledgers.base import Ledger, Seat, journal_path, state_directory
from quorate.coordinator.process import Companion, serve
from quorate.credentials import Token, token_from
from quorate.errors import RendezvousConnectionError, RendezvousSettingsError
from quorate.identity import (
    Endpoint,
    bind_all,
    is_loopback,
    listening_addresses,
    parse_rendezvous_endpoint,
)
from quorate.tls import TlsContexts, TlsFiles, server_context

if TYPE_CHECKING:
    from quorate.etcd.client import EtcdClient

__all__ = ["command", "etcd_backend"]

logger = logging.getLogger("quorate.serve")

# Below what coordinators keep their runs in etcd.
DEFAULT_PREFIX = "quorate"

PAGE_PACKAGES = ("aiohttp", "prometheus_client")

# One exchange with etcd, an election included; a coordinator tries again for as long as it takes.
ETCD_TIMEOUT_S = "5"


@click.command("serve", context_settings=CONTEXT_SETTINGS)
@click.option(
    "--endpoint",
    default="localhost",
    show_default=True,
    metavar="HOST[:PORT]",
    help=f"Where to listen; the port is {DEFAULT_PORT} if none is given, and 0 picks a free one. "
    "A name that is not a loopback one listens on all addresses of this machine.",
)
@click.option(
    "--state-dir",
    metavar="FOLDER",
    help="Where the journal is kept, one for each port. Default: quorate in the user's state "
    "folder.",
)
@click.option(
    "--backend",
    metavar="URL",
    help="Share the runs with other coordinators: etcd://HOST:PORT,HOST:PORT[/PREFIX]. One of them "
    "decides at a time; give agents the endpoints of all.",
)
@click.option(
    "--backend-conf",
    default="",
    metavar="KEY=VALUE,...",
    help="How to reach etcd: protocol, cacert, cert, key, user, password_file, read_timeout.",
)
@click.option(
    "--advertise",
    metavar="HOST[:PORT]",
    help="Where agents find this coordinator, if not at --endpoint.",
)
@click.option(
    "--http",
    metavar="[HOST:]PORT",
    help="Serve the status page, JSON and metrics there; without HOST on this machine alone. Needs "
    "the extra 'server'.",
)
@events_option()
@click.option("--memory", is_flag=True, help="Keep no journal: runs die with this process.")
@click.option(
    "--idle-exit",
    "idle_exit_s",
    type=Seconds(above=True),
    metavar="SECONDS",
    help="End after nobody was connected for so long. Default: never.",
)
@click.option(
    "--closed-kept",
    "closed_kept_s",
    default=CLOSED_KEPT_S,
    show_default=True,
    type=Seconds(),
    metavar="SECONDS",
    help="How long a closed run is remembered after its last agent has gone: latecomers are told "
    "how it ended, and cannot begin it anew.",
)
@token_option("The file of the secret that everybody must know who comes in.")
@click.option(
    "--operator-token-file",
    metavar="FILE",
    help="The file of another secret, without which operators may look and change nothing. "
    "Default: --token-file will do.",
)
@click.option(
    "--tls-cert",
    default="",
    metavar="FILE",
    help="The certificate of this coordinator, with those between it and its authority, in PEM: "
    "all connections are secured by TLS. It is read again when it changes.",
)
@click.option(
    "--tls-key",
    default="",
    metavar="FILE",
    help="Its private key. Default: in the certificate's file.",
)
@click.option(
    "--tls-client-ca",
    default="",
    metavar="FILE",
    help="Let nobody in who does not show a certificate of this authority (mutual TLS).",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
)
@click.option("--listen-fd", "descriptors", type=int, multiple=True, hidden=True)
def command(
    endpoint: str,
    state_dir: str | None,
    backend: str | None,
    backend_conf: str,
    advertise: str | None,
    http: str | None,
    events: str | None,
    memory: bool,
    idle_exit_s: float | None,
    closed_kept_s: float,
    token_file: str | None,
    operator_token_file: str | None,
    tls_cert: str,
    tls_key: str,
    tls_client_ca: str,
    log_level: str,
    descriptors: tuple[int, ...],
) -> None:
    """Run a coordinator until it is told to end.

    Agents find it with --rdzv-endpoint. With a journal, a coordinator that was killed and is
    started again on the same port goes on where it was: no worker is restarted.
    """
    _require_one_place(state_dir, backend, backend_conf, advertise, memory)
    set_up_logging(log_level)
    send_events(events)
    page = None if http is None else _page_endpoint(http)
    keys = _keys(token_file, operator_token_file)
    tls_files = TlsFiles(tls_client_ca, tls_cert, tls_key)
    tls = _tls(tls_files)
    listeners = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    if not listeners:
        listeners = _listen(
            parse_rendezvous_endpoint(endpoint, DEFAULT_PORT),
            "If it is a coordinator, agents can use it; else choose another port.",
        )
    port = listeners[0].getsockname()[1]
    addresses = ", ".join(str(Endpoint(*s.getsockname()[:2])) for s in listeners)
    ledger: Ledger | None = None
    seat: Seat | None = None
    if backend is not None:
        seat = _seat(backend, backend_conf, _advertised(advertise or endpoint, port))
        logger.info("listening on %s, runs are shared through %s", addresses, backend)
    elif memory:
        logger.info("listening on %s, runs are kept in memory", addresses)
    else:
        path = journal_path(state_directory(state_dir), port)
        ledger = _open_journal(path)
        logger.info("listening on %s, journal %s", addresses, path)
    if keys.token is None and not tls_client_ca:
        _warn_if_open(listeners)
    companions = {} if page is None else {"companion": _page(page, keys, _tls(tls_files))}
    serve(listeners, ledger, idle_exit_s, seat, closed_kept_s, keys, tls, **companions)


def _open_journal(path: Path) -> Journal:
    """Open a journal, and tell if its end was dropped."""
    journal = Journal(path)
    if journal.dropped_bytes:
        logger.warning(
            "the last %d bytes of the journal were no whole record, or came after one that was "
            "not, and were dropped: what was being written when its coordinator was ended",
            journal.dropped_bytes,
        )
    return journal


def _require_one_place(
    state_dir: str | None,
    backend: str | None,
    backend_conf: str,
    advertise: str | None,
    memory: bool,
) -> None:
    """Refuse options that would be forgotten, each being of use for one place to keep runs in.

    Raises:
        RendezvousSettingsError: Runs are to be kept elsewhere.
    """
    if backend is not None and memory:
        raise RendezvousSettingsError(
            "--backend keeps the runs in etcd, and --memory nowhere: give one of the two."
        )
    for_etcd = {"--backend-conf": backend_conf, "--advertise": advertise}
    useless = [name for name, value in for_etcd.items() if value and backend is None]
    if useless:
        raise RendezvousSettingsError(
            f"{useless[0]} is of no use to a coordinator that shares its runs with no other: give "
            f"--backend too, or leave it out."
        )
    if state_dir is not None and (memory or backend is not None):
        raise RendezvousSettingsError(
            f"--state-dir is where a journal is kept, and {'--memory' if memory else '--backend'} "
            f"keeps none: give one of the two."
        )


def _tls(files: TlsFiles) -> TlsContexts | None:
    """Return what connections are secured with, `None` if no file is given."""
    return TlsContexts(files, server_context) if files.names else None


def _keys(token_file: str | None, operator_token_file: str | None) -> Keys:
    token = token_from(token_file)
    if operator_token_file is None:
        return Keys(token)
    if token is None:
        raise RendezvousSettingsError(
            "--operator-token-file is of no use without a token for everybody else: give "
            "--token-file too."
        )
    return Keys(token, Token.from_file(operator_token_file))


def _page_endpoint(address: str) -> Endpoint:
    """Return where the status page is to be.

    Raises:
        RendezvousSettingsError: The address means nothing, or what the page needs is missing.
    """
    missing = [name for name in PAGE_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RendezvousSettingsError(
            f"--http needs {' and '.join(missing)}: pip install 'quorate[server]'."
        )
    try:
        return parse_rendezvous_endpoint(
            f"localhost:{address}" if address.isdigit() else address, 0
        )
    except RendezvousSettingsError as error:
        raise RendezvousSettingsError(
            f"--http '{address}' is not understood: write [HOST:]PORT, with a port from 0 to 65535."
        ) from error


def _page(endpoint: Endpoint, keys: Keys, tls: TlsContexts | None) -> Companion:
    """Return the status page, listening.

    Raises:
        RendezvousConnectionError: Another program has the port.
    """
    from quorate.page.access import Access
    from quorate.page.app import page_on

    listeners = _listen(endpoint, "Choose another one for --http.")
    port = listeners[0].getsockname()[1]
    scheme = "https" if tls is not None else "http"
    logger.info("status page at %s://%s/", scheme, Endpoint(endpoint.host, port))
    if keys.token is None and not _is_local(listeners):
        logger.warning("whoever reaches the status page may read it: give it --token-file")
    access = Access(lambda: _accepted(keys.token), lambda: _accepted(keys.operator_token))
    return page_on(listeners, access, {endpoint.host}, tls)


def _accepted(token: Token | None) -> Sequence[bytes]:
    return token.current().accepted if token is not None else ()


def _advertised(endpoint: str, port: int) -> str:
    parsed = parse_rendezvous_endpoint(endpoint, port)
    return str(Endpoint(parsed.host, parsed.port or port))


def _seat(url: str, configuration: str, endpoint: str) -> Seat:
    from quorate.coordinator.ledgers.etcd_seat import EtcdSeat

    client, prefix = etcd_backend(url, configuration)
    return EtcdSeat(client, prefix, endpoint)


def etcd_backend(url: str, configuration: str) -> tuple[EtcdClient, str]:
    """Return the way to the etcd that coordinators share, and below what their keys lie.

    Args:
        url: As in `etcd://HOST:PORT,HOST:PORT[/PREFIX]`.
        configuration: Keys and values of how to reach it.

    Raises:
        RendezvousSettingsError: The URL or the configuration means nothing.
    """
    scheme, _, rest = url.partition("://")
    members, _, prefix = rest.partition("/")
    if scheme != "etcd" or not members:
        raise RendezvousSettingsError(
            f"--backend '{url}' is not understood: write etcd://HOST:PORT,HOST:PORT[/PREFIX]."
        )
    from quorate.etcd.parameters import client_from

    config = {"read_timeout": ETCD_TIMEOUT_S} | parse_rendezvous_config(configuration)
    check_keys(config, "etcd-v2")
    client = client_from(RendezvousParameters("etcd", members, "coordinators", 1, 1, **config))
    return client, f"/{prefix.strip('/') or DEFAULT_PREFIX}"


def _listen(endpoint: Endpoint, advice: str) -> list[socket.socket]:
    listeners = bind_all(listening_addresses(endpoint), endpoint.port)
    if listeners is None:
        raise RendezvousConnectionError(
            f"Another program has port {endpoint.port} of this machine. {advice}"
        )
    return listeners


def _warn_if_open(listeners: list[socket.socket]) -> None:
    if not _is_local(listeners):
        logger.warning(
            "this coordinator listens beyond this machine without a token, and lets everybody in: "
            "give it --token-file or --tls-client-ca, or run it only in a network that you trust"
        )


def _is_local(listeners: list[socket.socket]) -> bool:
    return all(is_loopback(listener.getsockname()[0]) for listener in listeners)
