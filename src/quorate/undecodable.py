"""What msgspec raises for bytes that are not of the type that is asked for."""

from __future__ import annotations

import msgspec

__all__ = ["UNDECODABLE"]

# Text that is not UTF-8, and what is nested deeper than the interpreter allows, it does not turn
# into errors of its own.
UNDECODABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
