"""The files of TLS: what is wrong with them is said before anybody connects."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from quorate.api import RendezvousParameters
from quorate.errors import RendezvousSettingsError
from quorate.renewal import LOOK_EVERY_S
from quorate.testing import ManualClock
from quorate.tls import (
    TlsContexts,
    TlsFiles,
    client_context,
    client_contexts,
    server_context,
    tls_files_from,
)
from tests.certificates import Authority, key_pem, self_signed

MAKERS = (client_context, server_context)
Make = Callable[[TlsFiles], ssl.SSLContext]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def node(authority: Authority) -> TlsFiles:
    return authority.issue("node")


def params(**config: Any) -> RendezvousParameters:
    return RendezvousParameters("quorate", "localhost", "run", 1, 2, **config)


def test_what_a_node_is_told_about_tls() -> None:
    assert tls_files_from(params()) is None
    assert tls_files_from(params(tls="yes")) == TlsFiles()
    assert tls_files_from(params(tls_ca_file=" ca.pem ")) == TlsFiles("ca.pem")
    assert tls_files_from(params(tls_ca_file="ca.pem", tls="no")) is None
    assert tls_files_from(params(tls_ca_file="ca.pem", tls=None)) == TlsFiles("ca.pem")
    assert tls_files_from(params(tls_ca_file=None)) is None
    given = params(tls_ca_file="a", tls_cert_file="b", tls_key_file="c")
    assert tls_files_from(given) == TlsFiles("a", "b", "c")
    with pytest.raises(RendezvousSettingsError, match="'tls'"):
        tls_files_from(params(tls="perhaps"))
    with pytest.raises(RendezvousSettingsError, match="key c was given without its certificate"):
        tls_files_from(params(tls_key_file="c"))


def test_workers_are_told_the_files_wherever_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = TlsFiles.environment(TlsFiles("ca.pem", "/etc/node.pem"))
    assert TlsFiles.from_environment(told) == TlsFiles(str(tmp_path / "ca.pem"), "/etc/node.pem")
    assert TlsFiles.from_environment(TlsFiles.environment(TlsFiles())) == TlsFiles()
    assert TlsFiles.from_environment({}) is None


def test_a_plain_job_inside_one_with_tls_is_plain() -> None:
    outer = TlsFiles.environment(TlsFiles("ca.pem"))
    assert TlsFiles.from_environment(outer | TlsFiles.environment(None)) is None


def test_contexts_are_strict(authority: Authority, node: TlsFiles) -> None:
    client, server = client_context(authority.trusting), server_context(node)
    for context in (client, server):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.options & ssl.OP_NO_RENEGOTIATION
    assert client.check_hostname
    assert server.options & ssl.OP_NO_TICKET
    assert len(client.get_ca_certs()) == 1


def test_without_an_authority_of_theirs_nodes_show_nothing(node: TlsFiles) -> None:
    open_to_all = server_context(TlsFiles("", node.cert_file, node.key_file))
    assert open_to_all.verify_mode == ssl.CERT_NONE


def test_a_key_may_lie_in_its_certificates_file(node: TlsFiles, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text(Path(node.cert_file).read_text() + Path(node.key_file).read_text())
    for make in MAKERS:
        make(TlsFiles(node.ca_file, str(both)))


def test_a_coordinator_needs_a_certificate(authority: Authority) -> None:
    with pytest.raises(RendezvousSettingsError, match="needs a certificate: give --tls-cert"):
        server_context(authority.trusting)


@pytest.mark.parametrize("make", MAKERS)
def test_a_file_that_is_missing_is_named(make: Make, node: TlsFiles, tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.pem")
    for files in (
        TlsFiles(absent, node.cert_file, node.key_file),
        TlsFiles(node.ca_file, absent, node.key_file),
        TlsFiles(node.ca_file, node.cert_file, absent),
    ):
        with pytest.raises(RendezvousSettingsError) as caught:
            make(files)
        assert f"The file {absent} cannot be read: no such file" in str(caught.value)


@pytest.mark.parametrize("make", MAKERS)
def test_a_folder_is_no_file(make: Make, node: TlsFiles, tmp_path: Path) -> None:
    with pytest.raises(RendezvousSettingsError, match=f"{tmp_path} cannot be read: is a dir"):
        make(TlsFiles(str(tmp_path), node.cert_file, node.key_file))


@pytest.mark.parametrize("make", MAKERS)
def test_a_key_of_another_certificate(make: Make, authority: Authority, node: TlsFiles) -> None:
    other = authority.issue("other")
    with pytest.raises(RendezvousSettingsError, match="they do not belong together") as caught:
        make(TlsFiles(node.ca_file, node.cert_file, other.key_file))
    assert node.cert_file in str(caught.value)
    assert other.key_file in str(caught.value)


@pytest.mark.parametrize("make", MAKERS)
def test_files_that_hold_something_else(make: Make, node: TlsFiles, tmp_path: Path) -> None:
    list_of_things = tmp_path / "list.txt"
    list_of_things.write_text("bread, milk\n")
    with pytest.raises(RendezvousSettingsError, match="not in PEM form"):
        make(TlsFiles("", str(list_of_things), node.key_file))
    with pytest.raises(RendezvousSettingsError, match=r"authorities in .*none in it in PEM form"):
        make(TlsFiles(str(list_of_things), node.cert_file, node.key_file))


def test_an_encrypted_key_asks_nobody(node: TlsFiles, tmp_path: Path) -> None:
    key = tmp_path / "encrypted.key"
    key.write_bytes(key_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    with pytest.raises(RendezvousSettingsError, match="the key is encrypted"):
        server_context(TlsFiles("", node.cert_file, str(key)))


@pytest.mark.parametrize("make", MAKERS)
def test_an_expired_certificate_says_until_when(make: Make, authority: Authority) -> None:
    with pytest.raises(RendezvousSettingsError, match="valid until Feb  1 00:00:00 2020 GMT"):
        make(authority.issue_expired("old"))


@pytest.mark.parametrize(
    ("usage", "good_for", "bad_for"),
    [
        ("serverAuth", server_context, client_context),
        ("clientAuth", client_context, server_context),
    ],
)
def test_a_certificate_for_another_use(
    usage: str, good_for: Make, bad_for: Make, tmp_path: Path
) -> None:
    files = self_signed(tmp_path, usage)
    good_for(files)
    lacking = "clientAuth" if usage == "serverAuth" else "serverAuth"
    with pytest.raises(RendezvousSettingsError, match=f"extended key usage must have {lacking}"):
        bad_for(files)


def replace(files: TlsFiles, by: TlsFiles) -> None:
    """Put other files in the place of some, as who renews certificates does."""
    os.replace(by.key_file, files.key_file)
    os.replace(by.cert_file, files.cert_file)


def test_files_are_read_again_when_they_change(authority: Authority, node: TlsFiles) -> None:
    clock = ManualClock()
    contexts = TlsContexts(node, server_context, clock)
    first = contexts.current()
    replace(node, authority.issue("renewed"))
    assert contexts.current() is first, "it looks once a second at most"
    clock.advance(LOOK_EVERY_S)
    second = contexts.current()
    assert second is not first
    clock.advance(LOOK_EVERY_S)
    assert contexts.current() is second


def test_a_broken_renewal_changes_nothing_and_is_told_once(
    authority: Authority, node: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    contexts = TlsContexts(node, server_context, clock)
    first = contexts.current()
    renewed = authority.issue("renewed")
    os.replace(renewed.cert_file, node.cert_file)
    for _ in range(3):
        clock.advance(LOOK_EVERY_S)
        assert contexts.current() is first
    assert caplog.text.count("do not belong together") == 1
    Path(node.key_file).unlink()
    clock.advance(LOOK_EVERY_S)
    assert contexts.current() is first
    os.replace(renewed.key_file, node.key_file)
    clock.advance(LOOK_EVERY_S)
    with caplog.at_level(logging.INFO):
        assert contexts.current() is not first
    assert "were read again" in caplog.text


def test_files_that_cannot_be_used_are_told_at_once(authority: Authority) -> None:
    assert client_contexts(None) is None
    assert client_contexts(authority.trusting) is not None
    with pytest.raises(RendezvousSettingsError, match="2020"):
        client_contexts(authority.issue_expired("old"))
