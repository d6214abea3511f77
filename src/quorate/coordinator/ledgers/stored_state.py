"""How a run's state lies in a ledger: whole, and what was amended since. Pure.

To store ten thousand nodes anew for each one that joins would cost every join O(N). An amendment
holds the nodes that something has happened to, as they are now, and what is not about nodes. Once
the amendments have as many entries as the state has nodes, it is stored whole again, so that each
change costs O(1) in the long run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import msgspec

from quorate.codec import decode_state, encode_state, require_sound
from quorate.coordinator.ledgers.records import amendment_key, run_key
from quorate.core.node import NodeDesc
from quorate.core.state import RendezvousState
from quorate.core.transitions import forget_oldest
from quorate.errors import RendezvousStateError

__all__ = ["StoredState"]


class Amendment(msgspec.Struct, array_like=True):
    """What a state became.

    Args:
        nodes: The nodes that something has happened to; the last one is the last it happened to.
        state: The state without its world and without the nodes that nothing has happened to.
    """

    nodes: tuple[NodeDesc, ...]
    state: RendezvousState


_fields = msgspec.structs.fields(RendezvousState)
_BY_NODE = tuple(field.name for field in _fields if get_args(field.type)[:1] == (NodeDesc,))
_PLAIN = tuple(
    field.name for field in _fields if field.name not in {*_BY_NODE, "identities", "world"}
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Amendment)


class StoredState:
    """Knows what a ledger holds of one run's state, and what it has to hold next.

    Args:
        run_id: The run.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._amendments = 0
        self._entries = 0
        self._whole: tuple[object, ...] | None = None

    def load(self, records: Mapping[str, bytes]) -> RendezvousState:
        """Return the state that a ledger holds; there must be one.

        Raises:
            RendezvousStateError: It is no state, one of another version, or one that no run has.
            msgspec.MsgspecError: An amendment is corrupt; so are others of `UNDECODABLE`.
        """
        state = decode_state(records[run_key(self._run_id)])
        while (data := records.get(amendment_key(self._run_id, self._amendments + 1))) is not None:
            _amend(state, _decoder.decode(data))
            self._amendments += 1
        if self._amendments:
            require_sound(state)
        if state.agreed is None:
            raise RendezvousStateError(
                f"The stored state of the run '{self._run_id}' has no settings: it begins with a "
                f"node, which brings them. Remove it, or use another ledger."
            )
        return state

    def changes(self, state: RendezvousState, nodes: Iterable[NodeDesc]) -> dict[str, bytes | None]:
        """Return what to store, given the nodes that something has happened to since."""
        changed = tuple(nodes)
        self._entries += max(len(changed), 1)
        phase = (state.name, state.complete)
        if self._whole == phase and self._entries < len(state.last_heartbeats):
            self._amendments += 1
            key = amendment_key(self._run_id, self._amendments)
            return {key: _encoder.encode(_amendment(state, changed))}
        obsolete = self.keys()
        self._whole, self._entries, self._amendments = phase, 0, 0
        return dict.fromkeys(obsolete) | {run_key(self._run_id): encode_state(state)}

    def store_whole_next(self) -> None:
        """Amend nothing the next time: more has changed than what nodes can tell of."""
        self._whole = None

    def keys(self) -> list[str]:
        """Return the keys under which the ledger holds the state."""
        numbers = range(1, self._amendments + 1)
        return [run_key(self._run_id), *(amendment_key(self._run_id, n) for n in numbers)]


def _amendment(state: RendezvousState, nodes: tuple[NodeDesc, ...]) -> Amendment:
    parts: dict[str, Any] = {
        name: {node: members[node] for node in nodes if node in members}
        for name in _BY_NODE
        if (members := getattr(state, name))
    }
    parts |= {name: getattr(state, name) for name in _PLAIN}
    new = RendezvousState(**parts)
    new.identities = {
        node_id: node
        for node in nodes
        if (node_id := _identity(new, node)) and state.identities.get(node_id) == node
    }
    return Amendment(nodes, new)


def _identity(state: RendezvousState, node: NodeDesc) -> str:
    profile = state.profiles.get(node)
    return profile.node_id if profile is not None else state.gone.get(node, "")


def _amend(state: RendezvousState, amendment: Amendment) -> None:
    new = amendment.state
    for node in amendment.nodes:
        node_id = _identity(state, node)
        if state.identities.get(node_id) == node:
            del state.identities[node_id]
    state.identities |= new.identities
    for name in _PLAIN:
        setattr(state, name, getattr(new, name))
    for name in _BY_NODE:
        members = getattr(state, name)
        if name == "participants" and not state.complete:
            # No value of theirs says who came again, and nothing else happens to one that is in.
            for node in amendment.nodes:
                members.pop(node, None)
        _amend_members(members, getattr(new, name), amendment.nodes)
    forget_oldest(state)


def _amend_members(
    members: dict[NodeDesc, Any], new: Mapping[NodeDesc, Any], nodes: tuple[NodeDesc, ...]
) -> None:
    for node in nodes:
        # Who came again stands at the end of its line; who has stayed keeps its place in it (R5).
        if node not in new or new[node] != members.get(node):
            members.pop(node, None)
        if node in new:
            members[node] = new[node]
