"""Who may look at the page, and who may act on it. Pure."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Collection, Sequence

__all__ = ["Access", "is_own_name"]

Secrets = Callable[[], Sequence[bytes]]


def _none() -> Sequence[bytes]:
    return ()


class Access:
    """The rights that a token gives.

    Args:
        reading: Returns the tokens that may look; without any, everybody may.
        acting: Returns the operators' tokens, which may also look; without any, nobody may act.
    """

    def __init__(self, reading: Secrets = _none, acting: Secrets = _none) -> None:
        self._reading = reading
        self._acting = acting

    @property
    def is_open(self) -> bool:
        """Whether looking needs no token."""
        return not self._reading()

    @property
    def has_operators(self) -> bool:
        """Whether anybody may act."""
        return bool(self._acting())

    def may_read(self, token: str) -> bool:
        """Return whether somebody with this token, empty for none, may look."""
        return self.is_open or _is_among(token, self._reading()) or self.may_act(token)

    def may_act(self, token: str) -> bool:
        """Return whether somebody with this token may act."""
        return _is_among(token, self._acting())


def _is_among(token: str, secrets: Sequence[bytes]) -> bool:
    given = token.encode(errors="replace")
    # All are compared, whichever fits: how long it takes tells nothing.
    return sum(hmac.compare_digest(given, secret) for secret in secrets) > 0


def is_own_name(host: str, names: Collection[str]) -> bool:
    """Return whether a request's host is an address, or one of our names.

    A page of somebody else whose name is made to lead here (DNS rebinding) could read what needs no
    token; it comes under its own name.

    Args:
        host: The header `Host`, with or without a port.
        names: What we are called.
    """
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.removeprefix("[").removesuffix("]").rstrip(".").lower()
    if name in {"localhost", *(known.lower() for known in names)}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
