"""One question to a coordinator: the answer, or why there is none."""

from __future__ import annotations

import pytest

from quorate.cli.common import Connection
from quorate.cli.inquiry import inquire
from quorate.errors import RendezvousProtocolError
from quorate.wire.messages import Flag, Report, Status
from tests.served import PATIENCE_S, ThreadedCoordinator


def test_an_answer_of_the_wrong_kind_is_told() -> None:
    coordinator = ThreadedCoordinator()
    connection = Connection([coordinator.endpoint], PATIENCE_S)
    try:
        assert b'"runs":[]' in inquire(connection, Status, Report).json
        with pytest.raises(RendezvousProtocolError, match="Report where Flag was due"):
            inquire(connection, Status, Flag)
    finally:
        coordinator.stop()
