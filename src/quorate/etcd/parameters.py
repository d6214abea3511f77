"""A client of etcd from what a user has configured."""

from __future__ import annotations

import ssl
from pathlib import Path

from quorate.api import RendezvousParameters
from quorate.config import read_timeout_from
from quorate.errors import RendezvousSettingsError
from quorate.etcd.client import TIMEOUT_S, EtcdClient
from quorate.etcd.gateway import Credentials
from quorate.identity import parse_rendezvous_endpoints

__all__ = ["CLIENT_PORT", "client_from", "prefix_from", "tls_context"]

# Registered for etcd's clients.
CLIENT_PORT = 2379

PASSWORD_BYTES_MAX = 4096


def client_from(params: RendezvousParameters) -> EtcdClient:
    """Return a client for the endpoints and the configuration of a rendezvous.

    Keys, under PyTorch's names for both of its etcd backends: ``protocol`` (``http`` or
    ``https``), ``ssl_cert`` or ``cert``, ``ssl_cert_key`` or ``key``, ``ca_cert`` or ``cacert``,
    ``read_timeout`` (seconds); and ``user``, ``password_file``.

    Raises:
        RendezvousSettingsError: A value means nothing, or a file cannot be read.
    """
    return EtcdClient(
        parse_rendezvous_endpoints(params.endpoint, CLIENT_PORT),
        credentials=_credentials(params),
        tls=_tls(params),
        timeout_s=read_timeout_from(params, TIMEOUT_S),
    )


def prefix_from(params: RendezvousParameters, default: str) -> str:
    """Return below what in etcd runs are kept, without a slash at the end."""
    return params.get_as_text("etcd_prefix", default).rstrip("/")


def tls_context(ca_cert: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    """Return how to speak TLS; the files are in PEM.

    Args:
        ca_cert: The authorities to trust; the system's if None.
        cert: Our certificate, for members that ask for one.
        key: Its private key; in the same file if None.

    Raises:
        RendezvousSettingsError: A file cannot be read, or does not hold what it must.
    """
    try:
        context = ssl.create_default_context(cafile=ca_cert)
    except (OSError, ValueError) as error:
        raise RendezvousSettingsError(
            f"The authorities in {ca_cert} cannot be used ({error}): correct `ca_cert`."
        ) from error
    if cert is not None:
        try:
            # An encrypted key would make OpenSSL ask at the terminal.
            context.load_cert_chain(cert, key, password="")
        except (OSError, ValueError) as error:
            raise RendezvousSettingsError(
                f"The certificate {cert} with the key {key or 'in the same file'} cannot be used "
                f"({error}): correct `ssl_cert` and `ssl_cert_key`."
            ) from error
    elif key is not None:
        raise RendezvousSettingsError(
            f"The private key {key} was given without its certificate: give `ssl_cert` too."
        )
    return context


def _tls(params: RendezvousParameters) -> ssl.SSLContext | None:
    protocol = params.get_as_text("protocol", "http").lower()
    if protocol not in ("http", "https"):
        raise RendezvousSettingsError(f"`protocol` is {protocol!r}: it must be 'http' or 'https'.")
    files = (
        _one_of(params, "ca_cert", "cacert"),
        _one_of(params, "ssl_cert", "cert"),
        _one_of(params, "ssl_cert_key", "key"),
    )
    if protocol == "https":
        return tls_context(*files)
    if any(files):
        raise RendezvousSettingsError(
            "Certificates were given although `protocol` is 'http': set it to 'https'."
        )
    return None


def _one_of(params: RendezvousParameters, name: str, alias: str) -> str | None:
    given = {str(params.get(key)).strip() for key in (name, alias) if params.get(key) is not None}
    if len(given) > 1:
        raise RendezvousSettingsError(
            f"`{name}` and `{alias}` mean the same and have different values: give one of them."
        )
    return given.pop() if given else None


def _credentials(params: RendezvousParameters) -> Credentials | None:
    user, password_file = params.get("user"), params.get("password_file")
    if (user is None) != (password_file is None):
        raise RendezvousSettingsError("`user` and `password_file` must be given together.")
    if user is None:
        return None
    try:
        with Path(str(password_file)).open("rb") as file:
            password = file.read(PASSWORD_BYTES_MAX).decode()
    except (OSError, UnicodeError) as error:
        raise RendezvousSettingsError(
            f"The password of etcd's user {user!r} cannot be read ({error}): correct "
            "`password_file`."
        ) from error
    return Credentials(str(user), password.rstrip("\r\n"))
