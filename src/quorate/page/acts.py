"""What an operator can have done from the page. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from quorate.wire.messages import Close, Drain, Evict, Hold, Release, Request, Scale

__all__ = ["Act"]


class Act(msgspec.Struct, forbid_unknown_fields=True):
    """What `POST /act` carries.

    Args:
        run: The run.
        action: `close`, `drain`, `evict`, `hold`, `release` or `scale`.
        node: Whom to drain or evict: a rank, address, id or description.
        reason: Why, for everyone.
        for_s: For how long one that is evicted is kept out, in seconds; for good if `None`.
        nodes: How many nodes a round should have; as many as the settings allow if `None`.
    """

    run: str
    action: str
    node: str = ""
    reason: str = ""
    for_s: float | None = None
    nodes: int | None = None

    def request(self) -> Callable[[int], Request]:
        """Return what makes the request from its id.

        Raises:
            ValueError: There is no such action.
        """
        make = _REQUESTS.get(self.action)
        if make is None:
            raise ValueError(
                f"there is no action '{self.action}', but there are {', '.join(_REQUESTS)}"
            )
        return lambda id: make(self, id)


_REQUESTS: Mapping[str, Callable[[Act, int], Request]] = {
    "close": lambda act, id: Close(id, act.reason),
    "drain": lambda act, id: Drain(id, act.node, act.reason),
    "evict": lambda act, id: Evict(id, act.node, act.for_s, act.reason),
    "hold": lambda act, id: Hold(id, act.reason),
    "release": lambda act, id: Release(id),
    "scale": lambda act, id: Scale(id, act.nodes),
}
