"""How two sides show each other that they know a secret, which itself is never sent. Pure.

The form is that of a challenge and a response (ISO/IEC 9798-4, three passes, mutual), keyed by
HMAC-SHA256 (RFC 2104):

    client -> coordinator   Hello
    coordinator -> client   Challenge: its nonce, a new one for each connection
    client -> coordinator   Proof: its own nonce, and its mac
    coordinator -> client   Proven: its mac

Either mac covers who it is that proves, both nonces and the bytes of the hello, each part with its
length. A recorded one is of no use on another connection, nor for another hello, nor if it is sent
back to where it came from.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

__all__ = ["NONCE_BYTES", "Side", "Transcript", "mac_of", "secret_behind"]

NONCE_BYTES = 32

_PROTOCOL = b"quorate proof 1"
_LENGTH_BYTES = 4


class Side(Enum):
    """Who proves."""

    CLIENT = b"client"
    COORDINATOR = b"coordinator"


class Transcript(NamedTuple):
    """What the two have said so far.

    Args:
        server_nonce: The coordinator's random bytes.
        client_nonce: The client's.
        hello: The body of the client's hello, as it was sent.
    """

    server_nonce: bytes
    client_nonce: bytes
    hello: bytes


def mac_of(secret: bytes, side: Side, transcript: Transcript) -> bytes:
    """Return what only a side that knows the secret can say."""
    parts = (_PROTOCOL, side.value, *transcript)
    text = b"".join(len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in parts)
    return hmac.digest(secret, text, hashlib.sha256)


def secret_behind(
    mac: bytes, secrets: Iterable[bytes], side: Side, transcript: Transcript
) -> bytes | None:
    """Return the one of some secrets that a mac was made with, `None` if it was none of them."""
    found = None
    for secret in secrets:
        if hmac.compare_digest(mac, mac_of(secret, side, transcript)):
            found = secret
    return found
