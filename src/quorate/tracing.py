"""A span for each rendezvous, where the API of OpenTelemetry is installed; nothing where it is not.

Which spans are kept, and where they go, is for the program to set up with OpenTelemetry's SDK.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["RendezvousSpan", "rendezvous_span"]


class RendezvousSpan:
    """One `next_rendezvous`, from the call to its answer.

    Args:
        span: OpenTelemetry's; `None` if it is not installed.
    """

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def waits(self, reason: str) -> None:
        """Note what the node waits for now."""
        if self._span is not None:
            self._span.set_attribute("quorate.wait_reason", reason)
            self._span.add_event("waiting", {"quorate.wait_reason": reason})

    def joined(self, round_number: int, rank: int, size: int, node: str = "") -> None:
        """Note the place that the node has got."""
        if self._span is not None:
            self._span.set_attributes(
                {
                    "quorate.round": round_number,
                    "quorate.rank": rank,
                    "quorate.world_size": size,
                    "quorate.node": node,
                }
            )


@contextmanager
def rendezvous_span(run_id: str, backend: str) -> Iterator[RendezvousSpan]:
    """Measure a rendezvous; an error that ends it is recorded and goes on.

    Args:
        run_id: The run.
        backend: The kind of rendezvous.
    """
    tracer = _tracer()
    if tracer is None:
        yield RendezvousSpan()
        return
    attributes = {"quorate.run": run_id, "quorate.backend": backend}
    with tracer.start_as_current_span("quorate.next_rendezvous", attributes=attributes) as span:
        yield RendezvousSpan(span)


def _tracer() -> Any:
    """Return OpenTelemetry's; `None` if it is not installed.

    The import ends here: were a rendezvous waited for in its `except`, errors would name it.
    """
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace.get_tracer("quorate")
