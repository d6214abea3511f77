from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quorate.api import RendezvousParameters
from quorate.errors import RendezvousSettingsError
from quorate.etcd.parameters import client_from, prefix_from, tls_context
from quorate.etcd.transport import Endpoint
from tests.etcd.tls import Authority


def params(endpoint: str = "localhost", **config: Any) -> RendezvousParameters:
    return RendezvousParameters("etcd-v2", endpoint, "run", 1, 2, **config)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


def test_endpoints_and_deadline() -> None:
    with client_from(params("a,b:99", read_timeout="7.5")) as client:
        assert client._gateway._endpoints == [Endpoint("a", 2379), Endpoint("b", 99)]
        assert client.timeout_s == 7.5
    with client_from(params()) as client:
        assert client.timeout_s == 60.0


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_a_deadline_that_means_nothing_is_refused(value: str) -> None:
    with pytest.raises(RendezvousSettingsError, match="read_timeout"):
        client_from(params(read_timeout=value))


def test_the_password_comes_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("se cret\n")
    with client_from(params(user="me", password_file=str(file))) as client:
        credentials = client._gateway._credentials
    assert credentials is not None
    assert (credentials.user, credentials.password) == ("me", "se cret")


def test_half_of_a_login_is_refused(tmp_path: Path) -> None:
    for config in ({"user": "me"}, {"password_file": "file"}):
        with pytest.raises(RendezvousSettingsError, match="together"):
            client_from(params(**config))
    with pytest.raises(RendezvousSettingsError, match=r"'me' cannot be read.*password_file"):
        client_from(params(user="me", password_file=str(tmp_path / "absent")))


@pytest.mark.etcd
@pytest.mark.parametrize(
    "names", [("ssl_cert", "ssl_cert_key", "ca_cert"), ("cert", "key", "cacert")]
)
def test_certificates_under_both_of_pytorchs_names(
    names: tuple[str, str, str], authority: Authority
) -> None:
    files = dict(zip(names, (*authority.issue("me"), authority.cert), strict=True))
    with client_from(params(protocol="HTTPS ", **files)) as client:
        transport: Any = client._gateway._transport
        assert [each["subject"] for each in transport._tls.get_ca_certs()]
        assert transport._tls.check_hostname
    with pytest.raises(RendezvousSettingsError, match="set it to 'https'"):
        client_from(params(**files))


def test_two_values_for_one_thing_are_refused() -> None:
    with pytest.raises(RendezvousSettingsError, match="`ca_cert` and `cacert`"):
        client_from(params(protocol="https", ca_cert="a", cacert="b"))


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(RendezvousSettingsError, match=r"'ftp'.*'https'"):
        client_from(params(protocol="ftp"))


@pytest.mark.etcd
def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue("me")
    _, other_key = authority.issue("other")
    garbage = tmp_path / "garbage"
    garbage.write_text("garbage")
    for files, hint in (
        (("absent", None, None), "`ca_cert`"),
        ((str(garbage), None, None), "`ca_cert`"),
        ((None, "absent", None), "`ssl_cert`"),
        ((None, cert, other_key), "`ssl_cert_key`"),
        ((None, None, key), "without its certificate"),
    ):
        with pytest.raises(RendezvousSettingsError, match=hint):
            tls_context(*files)


def test_the_prefix_has_no_slash_at_its_end() -> None:
    assert prefix_from(params(), "/default") == "/default"
    assert prefix_from(params(etcd_prefix="/mine/"), "/default") == "/mine"
