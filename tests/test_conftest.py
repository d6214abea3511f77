"""What every test may use."""

from __future__ import annotations

import pytest

from tests.conftest import do_without


def test_what_is_missing_is_skipped_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUORATE_CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no hammer: buy one"):
        do_without("no hammer: buy one")
    monkeypatch.setenv("QUORATE_CI", "1")
    with pytest.raises(pytest.fail.Exception, match="no hammer: buy one"):
        do_without("no hammer: buy one")
