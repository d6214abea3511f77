from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest

from quorate import errors
from quorate.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousSettingsError,
    RendezvousTimeoutError,
    translating,
)


def drawn_tree() -> dict[str, str | None]:
    """Read the tree in the docstring: every error's name with its parent's."""
    parents: dict[str, str | None] = {}
    branch: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"[ │├└─]*(Rendezvous\w*Error|Store\w*Error)\b", line)
        if drawn is None:
            continue
        column = drawn.start(1)
        while branch and branch[-1][0] >= column:
            branch.pop()
        parents[drawn[1]] = branch[-1][1] if branch else None
        branch.append((column, drawn[1]))
    return parents


def descendants(parent: type[RendezvousError]) -> Iterator[tuple[str, str]]:
    for child in parent.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child.__name__, parent.__name__
            yield from descendants(child)


def all_errors() -> list[type[RendezvousError]]:
    return [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


def test_the_drawn_tree_is_the_tree() -> None:
    assert drawn_tree() == {"RendezvousError": None, **dict(descendants(RendezvousError))}


def test_every_error_is_public() -> None:
    assert {error.__name__ for error in all_errors()} == drawn_tree().keys()


def test_exit_codes_tell_errors_apart() -> None:
    codes = [error.exit_code for error in all_errors() if "exit_code" in vars(error)]
    assert len(set(codes)) == len(codes)
    # 0 is success, 1 and 2 belong to Python and to the command line, 126 and above to the shell.
    assert all(code == 0 or 2 < code < 126 for code in codes)
    assert RendezvousGracefulExitError.exit_code == 0


def test_closed_carries_its_reason() -> None:
    error = RendezvousClosedError("The run train is closed.", reason="succeeded")
    assert (str(error), error.reason) == ("The run train is closed.", "succeeded")
    assert RendezvousClosedError().reason == ""
    assert "closed" in str(RendezvousClosedError())


def test_a_settings_error_is_a_value_error() -> None:
    assert issubclass(RendezvousSettingsError, ValueError)


TABLE: Mapping[type[BaseException], type[RendezvousError]] = {
    TimeoutError: RendezvousTimeoutError,
    OSError: RendezvousConnectionError,
}


def translated(foreign: BaseException) -> BaseException:
    with pytest.raises(BaseException) as caught, translating(TABLE, "reading the state"):  # noqa: PT011
        raise foreign
    return caught.value


def test_translating_replaces_a_foreign_error() -> None:
    foreign = OSError("disk on fire")
    own = translated(foreign)
    assert type(own) is RendezvousConnectionError
    assert str(own) == "reading the state failed: disk on fire"
    assert own.__cause__ is foreign


def test_translating_takes_the_first_entry_that_matches() -> None:
    assert type(translated(TimeoutError("late"))) is RendezvousTimeoutError
    assert type(translated(ConnectionResetError("reset"))) is RendezvousConnectionError


def test_translating_leaves_other_errors_alone() -> None:
    foreign = KeyError("name")
    assert translated(foreign) is foreign


def test_translating_lets_success_through() -> None:
    with translating(TABLE, "reading the state"):
        value = 1
    assert value == 1
