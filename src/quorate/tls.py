"""The files of TLS, and the contexts that are made from them."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quorate.api import RendezvousParameters
from quorate.clock import Clock, SystemClock
from quorate.errors import RendezvousConnectionError, RendezvousSettingsError
from quorate.renewal import Renewal
from quorate.wire.tls import TlsPipe

__all__ = [
    "TlsContexts",
    "TlsFiles",
    "client_context",
    "client_contexts",
    "server_context",
    "tls_files_from",
]

logger = logging.getLogger("quorate.tls")

# OpenSSL's reasons, for people; it has none for a file that holds something else.
_REFUSALS = {
    "KEY_VALUES_MISMATCH": "they do not belong together",
    "NO_CERTIFICATE_OR_CRL_FOUND": "there is none in it in PEM form",
    "": "one of them is not in PEM form, or the key is encrypted",
}

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python does not name.
_NO_CHECK_TIME = 0x200000

# What tells a worker how to reach the coordinator; the first one says whether it is by TLS.
_TLS_VARIABLE = "QUORATE_TLS"
_FILE_VARIABLES = {
    "ca_file": "QUORATE_TLS_CA_FILE",
    "cert_file": "QUORATE_TLS_CERT_FILE",
    "key_file": "QUORATE_TLS_KEY_FILE",
}


@dataclass(frozen=True)
class TlsFiles:
    """Where this process finds what TLS needs, as PEM.

    Args:
        ca_file: The authorities to trust; empty for the system's (a client) or to let everybody
            in (a server).
        cert_file: This process's own certificate, with those between it and the authority;
            empty for none, which a server cannot be without.
        key_file: Its private key; empty if it lies in `cert_file`.

    Raises:
        RendezvousSettingsError: A key without its certificate.
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def __post_init__(self) -> None:
        """Check that a key has its certificate."""
        if self.key_file and not self.cert_file:
            raise RendezvousSettingsError(
                f"The private key {self.key_file} was given without its certificate: give both."
            )

    @property
    def names(self) -> list[str]:
        """The files that are given."""
        return [name for name in (self.ca_file, self.cert_file, self.key_file) if name]

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> TlsFiles | None:
        """Return the files that an agent has told its worker; `None` for a plain connection."""
        if environment.get(_TLS_VARIABLE) != "yes":
            return None
        given = {name: environment.get(key, "") for name, key in _FILE_VARIABLES.items()}
        return TlsFiles(**given)

    @staticmethod
    def environment(files: TlsFiles | None) -> dict[str, str]:
        """Return what tells a worker of these files: their names, never what is in them."""
        if files is None:
            return {_TLS_VARIABLE: "no"}
        told = {key: getattr(files, name) for name, key in _FILE_VARIABLES.items()}
        paths = {key: os.path.abspath(name) if name else "" for key, name in told.items()}
        return {_TLS_VARIABLE: "yes", **paths}


class TlsContexts:
    """The present context of some files, which are read again when they change.

    Certificates that are renewed are used by the next connection. While what is there cannot be
    used, the context stays as it was, and the log says so.

    Args:
        files: The files.
        make: Makes a context of them: `client_context` or `server_context`.
        clock: Tells when to look at the files again.

    Raises:
        RendezvousSettingsError: They cannot be used now.
    """

    def __init__(
        self,
        files: TlsFiles,
        make: Callable[[TlsFiles], ssl.SSLContext],
        clock: Clock | None = None,
    ) -> None:
        self._renewal = Renewal(
            files.names,
            lambda: make(files),
            logger,
            "The certificates that were read before stay in use.",
            "the certificates have changed and were read again",
            clock,
        )

    def current(self) -> ssl.SSLContext:
        """Return the context for a new connection."""
        return self._renewal.current()


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Return how to connect to a coordinator: TLS 1.2 or newer, its name is verified.

    Raises:
        RendezvousSettingsError: A file cannot be used; the message says which and why.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    if files.ca_file:
        _trust(context, files.ca_file)
    else:
        context.load_default_certs()
    if files.cert_file:
        _show(context, files)
    return context


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return how a coordinator lets others connect: TLS 1.2 or newer.

    With `ca_file`, whoever has no certificate of that authority is turned away (mutual TLS).

    Raises:
        RendezvousSettingsError: A file cannot be used; the message says which and why.
    """
    if not files.cert_file:
        raise RendezvousSettingsError(
            "A coordinator that speaks TLS needs a certificate: give --tls-cert and --tls-key to "
            "`quorate serve`, or `tls_cert_file` and `tls_key_file` to the node that starts it."
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    # A session that is resumed saves one signature; keeping what that takes costs memory.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    if files.ca_file:
        _trust(context, files.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    _show(context, files)
    return context


def client_contexts(files: TlsFiles | None) -> TlsContexts | None:
    """Return how to connect with some files, `None` for plain connections if there are none.

    Raises:
        RendezvousSettingsError: A file cannot be used; the message says which and why.
    """
    return TlsContexts(files, client_context) if files is not None else None


def tls_files_from(params: RendezvousParameters) -> TlsFiles | None:
    """Return the files that a node's parameters name, `None` if it does not use TLS.

    Raises:
        RendezvousSettingsError: A value is of the wrong kind.
    """
    given = {
        name: params.get_as_text(f"tls_{name}") for name in ("ca_file", "cert_file", "key_file")
    }
    if not params.get_as_bool("tls", any(given.values())):
        return None
    return TlsFiles(**given)


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION


def _trust(context: ssl.SSLContext, ca_file: str) -> None:
    _check_readable(ca_file)
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ValueError) as error:
        raise RendezvousSettingsError(
            f"The certificates of authorities in {ca_file} cannot be used: {_why(error)}."
        ) from error


def _show(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Let a context show our own certificate, if others can accept it at all."""
    cert, key = files.cert_file, files.key_file or files.cert_file
    for name in (cert, key):
        _check_readable(name)
    try:
        # An encrypted key would make OpenSSL ask at the terminal.
        context.load_cert_chain(cert, key, password="")
        seen = _seen_by_others(cert, key, context.protocol == ssl.PROTOCOL_TLS_SERVER)
    except (OSError, ValueError) as error:
        raise RendezvousSettingsError(
            f"The certificate {cert} with the private key {key} cannot be used: {_why(error)}."
        ) from error
    except RendezvousConnectionError as error:
        raise RendezvousSettingsError(f"{cert} cannot be used here. {error}") from error
    if ssl.cert_time_to_seconds(seen["notAfter"]) < SystemClock().now().timestamp():
        raise RendezvousSettingsError(
            f"The certificate {cert} has expired: it was valid until {seen['notAfter']}. Renew it."
        )


def _check_readable(name: str) -> None:
    # What OpenSSL says of a file that is not there does not name it.
    try:
        Path(name).open("rb").close()
    except OSError as error:
        raise RendezvousSettingsError(
            f"The file {name} cannot be read: {_why(error)}. Correct its path, or its owner."
        ) from error


def _seen_by_others(cert: str, key: str, from_server: bool) -> dict[str, Any]:
    """Show a certificate to ourselves, and return what is in it: OpenSSL judges its purpose.

    The judge trusts the certificate itself, and leaves the time to us, who can say more of it.
    """
    server, client = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    for context in (server, client):
        context.load_cert_chain(cert, key, password="")
    judge = client if from_server else server
    judge.verify_mode = ssl.CERT_REQUIRED
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    judge.load_verify_locations(cert)
    far, near = TlsPipe(server, server_side=True), TlsPipe(client, server_side=False)
    far.feed(near.take_output())
    near.feed(far.take_output())
    far.feed(near.take_output())
    return (near if from_server else far).peer_certificate


def _why(error: Exception) -> str:
    """Return why OpenSSL or the system refuses a file, for people."""
    if isinstance(error, ssl.SSLError):
        return _REFUSALS.get(error.reason or "", (error.reason or str(error)).lower())
    return (getattr(error, "strerror", None) or str(error)).lower()
