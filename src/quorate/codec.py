"""The shared state as bytes: a version, then msgpack. Typed both ways, so nothing is executed.

The first four bytes say what it is and in which version, so that an older program refuses a newer
state with a clear line and does not misread it.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain

import msgspec

from quorate.core.settings import AgreedSettings, RendezvousSettings
from quorate.core.state import RendezvousState, check
from quorate.errors import RendezvousStateError
from quorate.undecodable import UNDECODABLE

__all__ = ["STATE_BYTES_MAX", "decode_state", "encode_state", "require_sound"]

# A node takes 200 to 400 bytes, and up to 8 KiB with labels; one of this size is not a state.
STATE_BYTES_MAX = 256 * 1024 * 1024

# Moments of other years cannot be written in every zone, or be followed by a later one.
YEAR_MIN, YEAR_MAX = 2, 9998

# Of a run that nobody has joined yet.
ANY_SETTINGS = RendezvousSettings("of this state", 1, 1)

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
        state = _decoder.decode(memoryview(data)[4:])
    except UNDECODABLE as error:
        raise _corrupt(error) from error
    require_sound(state)
    return state


def require_sound(state: RendezvousState) -> None:
    """Refuse a stored state that no run can have: whoever decides relies on its invariants.

    Raises:
        RendezvousStateError: It is one.
    """
    try:
        _check(state)
    except (AssertionError, ValueError, OverflowError) as error:
        raise _corrupt(error) from error


def _corrupt(error: Exception) -> RendezvousStateError:
    return RendezvousStateError(
        f"The stored rendezvous state is corrupt ({error}). Use another run id, or remove it."
    )


@lru_cache(16)
def _settings_of(agreed: AgreedSettings) -> RendezvousSettings:
    return agreed.to_settings("of this state")


def _check(state: RendezvousState) -> None:
    if state.agreed is not None:
        check(state, _settings_of(state.agreed))
    elif state.last_heartbeats or state.world is not None:
        raise ValueError("it has nodes, and no settings that they agree on")
    else:
        check(state, ANY_SETTINGS)
    moments = (state.last_heartbeats, state.wait_list, state.redundancy_list, state.stragglers)
    others = (state.deadline, state.regrouping_since, *state.finishing.values())
    for moment in chain(*(members.values() for members in moments), filter(None, others)):
        if not YEAR_MIN <= moment.year <= YEAR_MAX:
            raise ValueError(f"nothing happens in the year {moment.year}")
