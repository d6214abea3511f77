"""What a mac covers: all of it, and nothing can be moved from one part to another."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from quorate.wire.proof import NONCE_BYTES, Side, Transcript, mac_of, secret_behind

SECRET, OTHER = b"s" * 16, b"t" * 16
SAID = Transcript(b"a" * NONCE_BYTES, b"b" * NONCE_BYTES, b"hello")


def test_the_form_is_fixed() -> None:
    """A change of it needs another number in its first part."""
    text = (
        b"\0\0\0\x0fquorate proof 1\0\0\0\x06client"
        + b"\0\0\0\x20" + b"a" * 32 + b"\0\0\0\x20" + b"b" * 32 + b"\0\0\0\x05hello"
    )  # fmt: skip
    assert mac_of(SECRET, Side.CLIENT, SAID) == hmac.new(SECRET, text, hashlib.sha256).digest()


@pytest.mark.parametrize(
    "other",
    [
        SAID._replace(server_nonce=b"x" * NONCE_BYTES),
        SAID._replace(client_nonce=b"x" * NONCE_BYTES),
        SAID._replace(hello=b"hullo"),
        Transcript(SAID.client_nonce, SAID.server_nonce, SAID.hello),
        Transcript(SAID.server_nonce, SAID.client_nonce + b"h", b"ello"),
    ],
)
def test_r15_a_mac_is_for_what_was_said_and_nothing_else(other: Transcript) -> None:
    mac = mac_of(SECRET, Side.CLIENT, SAID)
    assert secret_behind(mac, [SECRET], Side.CLIENT, SAID) == SECRET
    assert secret_behind(mac, [SECRET], Side.CLIENT, other) is None


def test_r15_a_mac_cannot_be_sent_back() -> None:
    mac = mac_of(SECRET, Side.CLIENT, SAID)
    assert secret_behind(mac, [SECRET], Side.COORDINATOR, SAID) is None


@pytest.mark.parametrize("mac", [b"", b"x", bytes(32), mac_of(OTHER, Side.CLIENT, SAID)[:31]])
def test_r15_what_is_no_mac_is_nobodys(mac: bytes) -> None:
    assert secret_behind(mac, [SECRET, OTHER], Side.CLIENT, SAID) is None


@pytest.mark.parametrize("secrets", [[SECRET, OTHER], [OTHER, SECRET]])
def test_either_secret_is_found(secrets: list[bytes]) -> None:
    mac = mac_of(OTHER, Side.CLIENT, SAID)
    assert secret_behind(mac, secrets, Side.CLIENT, SAID) == OTHER
