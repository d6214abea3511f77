"""The command `quorate`: what it lists, and what it exits with."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

from quorate.cli.main import COMMANDS, commands, main


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["quorate", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    code = caught.value.code
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_command(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, flag) == 0
    listed = capsys.readouterr().out
    for name, what in COMMANDS.items():
        assert name in listed
        assert what in " ".join(listed.split())


def test_help_has_the_code_of_an_error_that_has_none_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_main(monkeypatch, "--help")
    assert re.search(r"^ +70 +another error$", capsys.readouterr().out, re.MULTILINE)


def test_every_command_is_where_its_name_says() -> None:
    for name in COMMANDS:
        command = commands.get_command(click.Context(commands), name)
        assert isinstance(command, click.Command)
        assert command.name == name


def test_an_unknown_command_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "serf") == 2
    assert "No such command 'serf'" in capsys.readouterr().err


def test_an_unknown_option_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "status", "--endpont", "x") == 2
    assert "--endpoint" in capsys.readouterr().err


def test_an_error_of_ours_is_one_line_and_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "status", "--endpoint", "a:b") == 76
    captured = capsys.readouterr()
    assert captured.err.startswith("quorate: The port number of the rendezvous endpoint 'a:b'")
    assert captured.err.count("\n") == 1


def test_the_version_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--version") == 0
    assert "quorate" in capsys.readouterr().out


def test_it_is_a_module_too_and_help_needs_none_of_the_commands() -> None:
    program = (
        "import sys, runpy; sys.argv = ['quorate', '--help']\n"
        "try: runpy.run_module('quorate', run_name='__main__')\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "assert not {'asyncio', 'torch', 'numpy'} & set(sys.modules), 'slow to start'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=15, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: quorate ")
