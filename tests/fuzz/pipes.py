"""TLS under a fuzzer's hands: what passes is what was sent, or it ends in an error of ours."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from quorate.errors import (
    RendezvousConnectionError,
    RendezvousProtocolError,
    RendezvousSettingsError,
)
from quorate.tls import TlsFiles, client_context, server_context
from quorate.wire.tls import TlsPipe
from tests.certificates import Authority
from tests.fuzz.choices import Choices

# Where files cost nothing, on Linux.
MEMORY = Path("/dev/shm")

HOST = "127.0.0.1"

# From so many bytes on it is certain whether they are TLS (RFC 8446, section 5.1).
RECORD_HEADER_BYTES = 5


@cache
def scratch() -> Path:
    """Return this process's own folder, which goes with it."""
    in_memory = MEMORY if MEMORY.is_dir() else None
    _folders.append(tempfile.TemporaryDirectory(prefix="quorate-fuzz-", dir=in_memory))
    return Path(_folders[0].name)


_folders: list[tempfile.TemporaryDirectory[str]] = []


@cache
def files() -> TlsFiles:
    return Authority(scratch() / "authority").issue("node")


@cache
def contexts() -> tuple[object, object]:
    return server_context(files()), client_context(files())


def new_pipes() -> tuple[TlsPipe, TlsPipe]:
    """Return a coordinator's pipe and a node's."""
    server, client = contexts()
    return TlsPipe(server, True), TlsPipe(client, False, HOST)  # type: ignore[arg-type]


def tls(data: bytes) -> None:
    """Bytes that are no TLS are refused however cut; what was sent comes, or its front."""
    choices = Choices(data)
    is_strange, cut = choices.below(2) == 0, choices.fragments()
    side = choices.below(2)
    if is_strange:
        rest = choices.rest()
        whole, pieces = listen(new_pipes()[side], [rest]), listen(new_pipes()[side], cut(rest))
        assert whole[0] == pieces[0] == b""
        # Before that, the first bytes are judged by those of them that come together.
        assert len(rest) < RECORD_HEADER_BYTES or bool(whole[1]) == bool(pieces[1])
        return
    pair = shaken_hands()
    receiver, sender = pair[side], pair[1 - side]
    at, changed = choices.number(2), choices.take(choices.below(9))
    said = choices.rest()
    sender.send(said)
    sent = sender.take_output()
    at %= len(sent) + 1
    spoilt = sent[:at] + changed + sent[at + len(changed) :]
    heard, refusal = listen(receiver, cut(spoilt))
    assert said.startswith(heard)
    assert heard == said or spoilt != sent
    assert spoilt != sent or not refusal


def shaken_hands() -> tuple[TlsPipe, TlsPipe]:
    server, client = new_pipes()
    for _ in range(2):
        server.feed(client.take_output())
        client.feed(server.take_output())
    assert server.established
    assert client.established
    return server, client


def listen(pipe: TlsPipe, pieces: Iterable[bytes]) -> tuple[bytes, str]:
    """Return the plaintext, and why there is no more."""
    heard = b""
    try:
        for piece in pieces:
            heard += pipe.feed(piece)
    except (RendezvousProtocolError, RendezvousConnectionError) as error:
        return heard, str(error)
    pipe.close()
    return heard, ""


def certificates(data: bytes) -> None:
    """Files of certificates are used, or refused with a reason."""
    choices = Choices(data)
    which = choices.below(3)
    names = ["ca_file", "cert_file", "key_file"]
    original = Path(getattr(files(), names[which])).read_bytes()
    at = choices.number(2) % (len(original) + 1)
    written = choices.rest() if choices.below(2) else original[:at] + choices.rest() + original[at:]
    path = scratch() / "changed.pem"
    path.write_bytes(written)
    given = {name: getattr(files(), name) for name in names} | {names[which]: str(path)}
    for make in (server_context, client_context):
        with contextlib.suppress(RendezvousSettingsError):
            make(TlsFiles(**given))
