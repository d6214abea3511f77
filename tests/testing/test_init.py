"""The package of test tools: each name comes from its home when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import quorate.testing


@pytest.mark.parametrize("name", quorate.testing.__all__)
def test_every_name_is_there(name: str) -> None:
    tool = getattr(quorate.testing, name)
    assert tool.__name__ == name
    assert tool.__module__ == quorate.testing.HOMES[name]


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = quorate.testing.absent


def test_importing_it_loads_no_tool_and_no_pytest() -> None:
    code = (
        "import sys, quorate.testing\n"
        "assert not [name for name in sys.modules if name.startswith('quorate.testing.')]\n"
        "for name in quorate.testing.__all__: getattr(quorate.testing, name)\n"
        "assert 'pytest' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
