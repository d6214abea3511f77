"""What a hello must be like: whatever no node, run or session can be is refused. Pure (R15)."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from quorate.core.node import NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, TIMEOUT_MAX_S, AgreedSettings
from quorate.errors import (
    RendezvousLimitError,
    RendezvousProtocolError,
    RendezvousSettingsError,
)
from quorate.wire.messages import ROLE_AGENT, ROLE_OPERATOR, ROLE_STORE, Hello

__all__ = ["require_modest", "require_sound"]

RUN_ID_CHARACTERS_MAX = 256
SESSION_CHARACTERS_MAX = 256

# What one node may say about itself; the others' state and records carry it.
NODE_BYTES_MAX = 1024
PROFILE_BYTES_MAX = 4096
SLOTS_MAX = 65_536
PORT_MAX = 65_535


def require_sound(hello: Hello) -> None:
    """Refuse a hello that is not one, or not of this release.

    Raises:
        RendezvousProtocolError: It is of another version, or lacks what it must have.
        RendezvousLimitError: Something in it is too large.
        RendezvousSettingsError: No run can have its settings, or a name cannot be printed.
    """
    if hello.version != PROTOCOL_VERSION:
        raise RendezvousProtocolError(
            f"This coordinator speaks protocol version {PROTOCOL_VERSION}, the peer version "
            f"{hello.version}: run the same release of quorate on all nodes."
        )
    if hello.role not in {ROLE_AGENT, ROLE_STORE, ROLE_OPERATOR}:
        raise RendezvousProtocolError(f"The role '{hello.role}' is unknown.")
    if not hello.run_id and hello.role != ROLE_OPERATOR:
        raise RendezvousProtocolError("A hello must carry the run id.")
    if len(hello.run_id) > RUN_ID_CHARACTERS_MAX:
        raise RendezvousLimitError(
            f"The run id is too long: use at most {RUN_ID_CHARACTERS_MAX} characters."
        )
    _require_printable("run id", hello.run_id)
    if not 0 < len(hello.session) <= SESSION_CHARACTERS_MAX or not hello.session.isprintable():
        raise RendezvousProtocolError(
            f"A hello must carry a session of at most {SESSION_CHARACTERS_MAX} plain characters."
        )
    if hello.role == ROLE_AGENT:
        _require_sound_agent(hello)


def _require_sound_agent(hello: Hello) -> None:
    if hello.node is None or hello.settings is None:
        raise RendezvousProtocolError("An agent's hello must carry its node and its settings.")
    if len(msgspec.msgpack.encode(hello.node)) > NODE_BYTES_MAX:
        raise RendezvousLimitError(
            f"The address of the node is too long: its descriptor may have {NODE_BYTES_MAX} bytes."
        )
    _require_printable("address", hello.node.addr)
    require_modest(hello.profile or NodeProfile())
    _require_possible(hello.run_id, hello.settings)


def require_modest(profile: NodeProfile) -> None:
    """Refuse a profile that is too large, or has what no node has.

    Raises:
        RendezvousLimitError: It is too large.
        RendezvousProtocolError: A number is out of range.
        RendezvousSettingsError: A text cannot be printed.
    """
    size = len(msgspec.msgpack.encode(profile))
    if size > PROFILE_BYTES_MAX:
        raise RendezvousLimitError(
            f"The profile of the node has {size} bytes, more than the {PROFILE_BYTES_MAX} that one "
            f"may have: give the node shorter labels, or fewer."
        )
    if not (0 <= profile.slots <= SLOTS_MAX and 0 <= profile.port <= PORT_MAX):
        raise RendezvousProtocolError(
            f"No node has {profile.slots} workers or the port {profile.port}: use at most "
            f"{SLOTS_MAX} and {PORT_MAX}."
        )
    _require_printable("node id", profile.node_id)
    _require_printable("address", profile.addr)
    _require_printable("release", profile.release)
    for label in profile.labels.items():
        _require_printable("label", ":".join(label))


def _require_printable(what: str, text: str) -> None:
    """Refuse what would end a line of somebody's log, or command the terminal of who looks."""
    if not text.isprintable():
        raise RendezvousSettingsError(
            f"The {what} {text!r} has characters that cannot be printed: use plain ones."
        )


@lru_cache(maxsize=64)
def _require_possible(run_id: str, settings: AgreedSettings) -> None:
    """Refuse what no run can have: the first node's settings become everybody's.

    They are looked at once, and not for each of the thousands that come with the same.
    """
    for key, value in msgspec.structs.asdict(settings).items():
        if isinstance(value, float) and not 0 <= value <= TIMEOUT_MAX_S:
            raise RendezvousSettingsError(
                f"The setting {key} ({value:g} s) must be positive and at most {TIMEOUT_MAX_S:g} s."
            )
    try:
        settings.to_settings(run_id)
    except RendezvousSettingsError:
        raise
    except ValueError as error:
        raise RendezvousSettingsError(str(error)) from error
