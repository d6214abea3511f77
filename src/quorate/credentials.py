"""The shared secrets ("tokens") by which agents, coordinators and operators know each other.

A secret never crosses the network (see `wire.proof`), never stands on a command line, and is never
shown. Two are valid at once, so that a secret can be changed while everything goes on: coordinators
are given the new one as their second, then clients the new one, then the old one is dropped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from quorate.clock import Clock
from quorate.errors import RendezvousSettingsError
from quorate.renewal import Renewal

__all__ = [
    "FILE_VARIABLE",
    "VARIABLE",
    "Secrets",
    "Token",
    "exported",
    "parse_secrets",
    "token_from",
]

logger = logging.getLogger("quorate.credentials")

VARIABLE = "QUORATE_TOKEN"
FILE_VARIABLE = "QUORATE_TOKEN_FILE"

# Whoever pretends to be a coordinator can try secrets on an agent's proof, in its own time: a
# short one would be found.
SECRET_BYTES_MIN = 16
SECRET_BYTES_MAX = 512
SECRETS_MAX = 2

# Two secrets, and what people write beside them.
FILE_BYTES_MAX = 16 * 1024


class Secrets:
    """One shared secret, or two while it is being changed.

    Args:
        accepted: Each of them proves that a peer may come in; the first is this side's own.
    """

    __slots__ = ("accepted",)

    def __init__(self, *accepted: bytes) -> None:
        self.accepted = accepted

    @property
    def own(self) -> bytes:
        """The secret that this process proves itself with."""
        return self.accepted[0]

    def __repr__(self) -> str:
        """Return how many there are, and nothing of them."""
        return f"Secrets(<{len(self.accepted)} hidden>)"


class Token:
    """The secrets of this process; those of a file are read again when the file has changed.

    Args:
        secrets: What counts, for ever; `from_file` makes a token that changes.
    """

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._path: Path | None = None
        self._renewal: Renewal[Secrets] | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], clock: Clock | None = None) -> Token:
        """Return the token that a file holds: one secret a line, two at most.

        Empty lines and lines that begin with `#` do not count.

        Raises:
            RendezvousSettingsError: The file cannot be read, or holds no token.
        """
        # Whoever is given its name may have another working directory.
        absolute = Path(os.path.abspath(path))
        _warn_if_readable(absolute)
        renewal = Renewal(
            [absolute],
            lambda: _read(absolute),
            logger,
            "The token that was read before stays valid.",
            f"the token file {absolute} has changed and was read again",
            clock,
        )
        token = cls(renewal.current())
        token._path, token._renewal = absolute, renewal
        return token

    def current(self) -> Secrets:
        """Return the secrets that count now. A file that is broken leaves those that were."""
        return self._renewal.current() if self._renewal is not None else self._secrets

    def variables(self) -> dict[str, str]:
        """Return the environment variables that name this token."""
        if self._path is not None:
            return {FILE_VARIABLE: str(self._path)}
        return {VARIABLE: os.fsdecode(b"\n".join(self._secrets.accepted))}


def token_from(
    token_file: str | None = None, environment: Mapping[str, str] = os.environ
) -> Token | None:
    """Return the token that this process was given, `None` if it was given none.

    Args:
        token_file: The file that an option names; it goes before the environment.
        environment: Where `QUORATE_TOKEN_FILE` may name a file, or `QUORATE_TOKEN` be the secret.

    Raises:
        RendezvousSettingsError: There should be one, but is none. An empty variable is a mistake
            too: taken for none, it would open a door that should be locked.
    """
    path = environment.get(FILE_VARIABLE) if token_file is None else token_file
    if path is not None:
        return Token.from_file(path)
    if VARIABLE in environment:
        return Token(parse_secrets(os.fsencode(environment[VARIABLE]), f"${VARIABLE}"))
    return None


def exported(token: Token | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that gives a child process a token and no other, or none.

    The secret itself is in it only where it came from the environment.
    """
    names = {VARIABLE, FILE_VARIABLE}
    told = {name: value for name, value in environment.items() if name not in names}
    if token is None:
        return told
    return told | token.variables()


def parse_secrets(text: bytes, origin: str) -> Secrets:
    """Return the secrets in a text of one or two lines.

    Args:
        text: What a file or a variable holds.
        origin: Its name, for the error.

    Raises:
        RendezvousSettingsError: It holds none, too many, or one of a bad length.
    """
    found = []
    for number, line in enumerate(text.split(b"\n"), 1):
        secret = line.strip()
        if not secret or secret.startswith(b"#"):
            continue
        if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
            raise RendezvousSettingsError(
                f"The token in line {number} of {origin} has {len(secret)} bytes: it must have "
                f"{SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}, as `openssl rand -hex 32` makes one."
            )
        found.append(secret)
    if not 1 <= len(found) <= SECRETS_MAX:
        raise RendezvousSettingsError(
            f"{origin} holds {len(found)} tokens: write one, or two while it is being changed, one "
            f"a line."
        )
    return Secrets(*found)


def _read(path: Path) -> Secrets:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise RendezvousSettingsError(
            f"The token file {path} cannot be read: {os.strerror(error.errno or 0).lower()}."
        ) from error
    if len(text) > FILE_BYTES_MAX:
        raise RendezvousSettingsError(
            f"The token file {path} has more than {FILE_BYTES_MAX} bytes: is it the right one?"
        )
    return parse_secrets(text, str(path))


@cache
def _warn_if_readable(path: Path) -> None:
    """Warn once in a process."""
    with contextlib.suppress(OSError):
        if not path.stat().st_mode & stat.S_IROTH:
            return
        logger.warning(
            "every user of this machine can read the token file %s: chmod 600 it, or 640", path
        )
