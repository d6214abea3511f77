"""TLS 1.2 and 1.3 (RFC 5246, RFC 8446) on bytes alone: ciphertext in, plaintext out, and back.

No socket, no task. asyncio's own TLS keeps two buffers of 256 KiB for each connection; here one
costs what OpenSSL needs. A buffer of OpenSSL keeps the size of the most that ever lay in it, so
that everything passes through in small pieces.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Any

from quorate.errors import RendezvousConnectionError, RendezvousProtocolError
from quorate.wire.frames import is_tls

__all__ = ["TlsPipe"]

PIECE_BYTES = 2048

# Codes of X509_STORE_CTX_get_error(3): what is wrong with the certificate of the other side.
_NOT_YET_VALID, _EXPIRED, _WRONG_PURPOSE = 9, 10, 26
_UNTRUSTED = {18, 19, 20, 21}
_WRONG_NAME = {62, 64}

# RFC 8446, section 6.2, by OpenSSL's names: what the other side says of our certificate.
_REJECTIONS = {
    "UNKNOWN_CA": "comes from an authority that it does not trust",
    "CERTIFICATE_EXPIRED": "has expired",
    "UNSUPPORTED_CERTIFICATE": "is not made for this use",
    "CERTIFICATE_UNKNOWN": "cannot be accepted",
    "BAD_CERTIFICATE": "cannot be accepted",
}


class TlsPipe:
    """One side of one TLS connection.

    Hand what arrives to `feed` and, after each call of whatever kind, send what `take_output`
    returns, after an error too: it tells the other side. A pipe that has failed sends and
    receives nothing more.

    Args:
        context: Which certificates are shown and trusted.
        server_side: Whether this is the coordinator's side.
        server_hostname: The name or address that the certificate of the other side must be for;
            for the client's side alone.

    Attributes:
        established: Whether the handshake is over: `send` may be used.
        finished: Whether the other side has said that nothing more will come from it
            (close_notify): end the connection.
        speaks_tls: Whether what has come may be TLS.
    """

    def __init__(
        self, context: ssl.SSLContext, server_side: bool, server_hostname: str | None = None
    ) -> None:
        self.established = False
        self.finished = False
        self.speaks_tls = True
        self._name = server_hostname
        self._server_side = server_side
        self._begun = False
        self._ended = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        self._output: list[bytes] = []
        if not server_side:
            self._read()

    @property
    def peer_certificate(self) -> dict[str, Any]:
        """What is in the certificate that the other side has shown, as `ssl` has it."""
        return dict(self._tls.getpeercert() or {})

    def feed(self, ciphertext: bytes) -> bytes:
        """Take received bytes and return the plaintext that they complete.

        What follows the other side's end is dropped.

        Raises:
            RendezvousConnectionError: One side does not trust the other one's certificate, or
                misses it.
            RendezvousProtocolError: The other side does not speak TLS (`speaks_tls` is false
                then), or not as it must.
        """
        if not self._begun and ciphertext:
            self._begin(ciphertext)
        plaintext: list[bytes] = []
        view = memoryview(ciphertext)
        for start in range(0, len(view), PIECE_BYTES):
            if self._ended or self.finished:
                break
            self._incoming.write(view[start : start + PIECE_BYTES])
            while piece := self._read():
                plaintext.append(piece)
        return b"".join(plaintext)

    def send(self, plaintext: bytes) -> None:
        """Encrypt bytes for the other side; it must be `established`."""
        assert self.established, "nothing can be sent before the handshake is over"
        view = memoryview(plaintext)
        for start in range(0, len(view), PIECE_BYTES):
            if self._ended:
                return
            self._tls.write(view[start : start + PIECE_BYTES])
            self._collect()

    def close(self) -> None:
        """Say that nothing more will come (close_notify); send the output, then end."""
        if self.established and not self._ended:
            self._ended = True
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._collect()

    def take_output(self) -> bytes:
        """Return the bytes to send to the other side."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def _begin(self, ciphertext: bytes) -> None:
        self._begun = True
        if not is_tls(ciphertext):
            self._ended = True
            self.speaks_tls = False
            raise RendezvousProtocolError(
                "The peer does not speak TLS, and this coordinator speaks nothing else: give "
                "`tls` or `tls_ca_file` with --rdzv-conf, or --tls-ca to a command."
                if self._server_side
                else "What listens there does not speak TLS: give the coordinator a certificate "
                "(`quorate serve --tls-cert`), or leave out the `tls` options here."
            )

    def _read(self) -> bytes:
        """Return what can be read now; nothing while the handshake lasts, and after the end."""
        try:
            if not self.established:
                self._tls.do_handshake()
                self.established = True
            piece = self._tls.read(PIECE_BYTES)
            # `ssl` does not raise an error at close_notify once hands are shaken.
            self.finished = not piece
            return piece
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:
            self.finished = True
            return b""
        except ssl.SSLError as error:
            self._ended = True
            raise self._told(error) from error
        finally:
            self._collect()

    def _collect(self) -> None:
        if self._outgoing.pending:
            self._output.append(self._outgoing.read())

    def _told(self, error: ssl.SSLError) -> RendezvousConnectionError:
        """Return the error for people."""
        peer, own = ("coordinator", "node")[:: -1 if self._server_side else 1]
        if isinstance(error, ssl.SSLCertVerificationError):
            return RendezvousConnectionError(
                f"The certificate of the {peer} {self._verdict(error)}."
            )
        reason = error.reason or str(error)
        alert = reason.partition("ALERT_")[2]
        if alert in _REJECTIONS:
            return RendezvousConnectionError(
                f"The {peer} says that the certificate of this {own} {_REJECTIONS[alert]}."
            )
        if alert == "CERTIFICATE_REQUIRED":
            return RendezvousConnectionError(
                "The coordinator wants a certificate of this node: give `tls_cert_file` and "
                "`tls_key_file` with --rdzv-conf, or --tls-cert and --tls-key to a command."
            )
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return RendezvousConnectionError(
                "The node has shown no certificate, and this coordinator lets nobody in without."
            )
        return RendezvousProtocolError(
            f"TLS with the {peer} has failed: {reason.replace('_', ' ').lower()}."
        )

    def _verdict(self, error: ssl.SSLCertVerificationError) -> str:
        """Return what is wrong with the certificate of the other side, and what to do."""
        code = error.verify_code
        if code in _UNTRUSTED:
            where = "--tls-client-ca" if self._server_side else "`tls_ca_file` or --tls-ca"
            return f"comes from an authority that is not trusted here: name it with {where}"
        if code in _WRONG_NAME:
            return f"is not for '{self._name}': use a name that it is for, or make one for this one"
        if code == _EXPIRED:
            return "has expired: renew it"
        if code == _NOT_YET_VALID:
            return "is not valid yet: check the clocks of both machines"
        if code == _WRONG_PURPOSE:
            use = "clientAuth" if self._server_side else "serverAuth"
            return f"is not made for this use: its extended key usage must have {use}"
        return f"is refused ({error.verify_message}): make a new one"
