"""The shared state as bytes: a version, then msgpack. Typed both ways, so nothing is executed.

The first four bytes say what it is and in which version, so that an older program refuses a newer
state with a clear line and does not misread it.
"""

from __future__ import annotations

import msgspec

from quorate.core.state import RendezvousState
from quorate.errors import RendezvousStateError

__all__ = ["STATE_BYTES_MAX", "decode_state", "encode_state"]

# A state of 10,000 nodes takes about 2 MB; one of this size is not a state.
STATE_BYTES_MAX = 64 * 1024 * 1024

_MAGIC = b"qrs\x01"
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RendezvousState)


def encode_state(state: RendezvousState) -> bytes:
    """Return the state as bytes that `decode_state` understands."""
    return _MAGIC + _encoder.encode(state)


def decode_state(data: bytes) -> RendezvousState:
    """Return the state that `encode_state` made bytes of.

    Raises:
        RendezvousStateError: The bytes are not a state, or one of another version.
    """
    if len(data) > STATE_BYTES_MAX:
        raise RendezvousStateError(
            f"The stored rendezvous state has {len(data)} bytes, more than the {STATE_BYTES_MAX} "
            f"that a state can have: something else stands in its place. Use another run id."
        )
    if len(data) < len(_MAGIC) or data[:3] != _MAGIC[:3]:
        raise RendezvousStateError(
            "The stored bytes are not a rendezvous state of quorate: something else was stored "
            "under this run id. Use another run id, or remove what is there."
        )
    if data[3] != _MAGIC[3]:
        raise RendezvousStateError(
            f"The stored rendezvous state has version {data[3]}, this program reads version "
            f"{_MAGIC[3]}: run the same release of quorate on all nodes."
        )
    try:
        return _decoder.decode(memoryview(data)[4:])
    except msgspec.MsgspecError as error:
        raise RendezvousStateError(
            f"The stored rendezvous state is corrupt ({error}). Use another run id, or remove it."
        ) from error
