"""What the commands share."""

from __future__ import annotations

import logging

import click
import pytest
from click.testing import CliRunner

from quorate.cli.common import (
    CONTEXT_SETTINGS,
    DEFAULT_PORT,
    Connection,
    Seconds,
    connection_options,
    endpoint_option,
    fail,
    json_option,
    set_up_logging,
    tls_options,
)
from quorate.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousGracefulExitError,
    RendezvousSettingsError,
)
from quorate.tls import TlsFiles


def test_an_error_is_one_line_and_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(RendezvousConnectionError("Nobody is there.")) == 73
    captured = capsys.readouterr()
    assert captured.err == "quorate: Nobody is there.\n"
    assert captured.out == ""


def test_an_error_stays_one_line_whatever_a_peer_has_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail(RendezvousClosedError("The run is closed (over\n\x1b[2J)."))
    assert capsys.readouterr().err == "quorate: The run is closed (over\\n\\x1b[2J).\n"


def test_a_spare_that_is_not_needed_has_not_failed() -> None:
    assert fail(RendezvousGracefulExitError("Not needed.")) == 0


def test_the_log_goes_to_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    set_up_logging("warning")
    logging.getLogger("quorate.x").info("not this")
    logging.getLogger("quorate.x").warning("but this")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("WARNING quorate.x: but this\n")
    assert "not this" not in captured.err


@pytest.mark.parametrize(
    ("kind", "taken", "refused"),
    [
        (Seconds(), ["0", "0.5", "2e6"], ["-1", "nan", "inf", "-inf", "2.1e6", "1e400", "x"]),
        (Seconds(above=True), ["1e-3"], ["0", "nan"]),
        (Seconds(0.1), ["0.1"], ["0", "0.09", "NaN"]),
    ],
)
def test_seconds_are_finite_and_not_too_many(
    kind: Seconds, taken: list[str], refused: list[str]
) -> None:
    for text in taken:
        assert kind.convert(text, None, None) == float(text)
    for text in refused:
        with pytest.raises(click.BadParameter):
            kind.convert(text, None, None)


@pytest.mark.parametrize("flag", ["--some-flag", "--some_flag"])
def test_flags_are_taken_with_either_stroke(flag: str) -> None:
    @click.command(context_settings=CONTEXT_SETTINGS)
    @click.option("--some-flag")
    def command(some_flag: str) -> None:
        click.echo(some_flag)

    assert CliRunner().invoke(command, [flag, "a_b"]).output == "a_b\n"


def test_an_endpoint_is_required_where_there_is_no_default() -> None:
    @click.command()
    @endpoint_option(None)
    def required(endpoint: str) -> None:
        click.echo(endpoint)

    @click.command()
    @endpoint_option("somewhere")
    def defaulted(endpoint: str) -> None:
        click.echo(endpoint)

    assert CliRunner().invoke(required).exit_code == 2
    assert CliRunner().invoke(required, ["--endpoint", "c1"]).output == "c1\n"
    assert CliRunner().invoke(defaulted).output == "somewhere\n"


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ([], None),
        (["--tls"], TlsFiles()),
        (["--tls-ca", "a"], TlsFiles("a")),
        (["--tls_cert", "b", "--tls_key", "c"], TlsFiles("", "b", "c")),
    ],
)
def test_one_option_of_tls_implies_the_others(arguments: list[str], files: TlsFiles | None) -> None:
    given: list[TlsFiles | None] = []

    @click.command(context_settings=CONTEXT_SETTINGS)
    @tls_options
    def command(tls: TlsFiles | None) -> None:
        given.append(tls)

    assert CliRunner().invoke(command, arguments).exit_code == 0
    assert given == [files]


def test_a_key_without_its_certificate_is_refused() -> None:
    @click.command()
    @tls_options
    def command(tls: TlsFiles | None) -> None:
        raise AssertionError

    result = CliRunner().invoke(command, ["--tls-key", "c"])
    assert isinstance(result.exception, RendezvousSettingsError)


def test_connection_options_become_one_argument() -> None:
    @click.command()
    @connection_options
    @json_option
    def command(connection: Connection, as_json: bool) -> None:
        """Say what was given."""
        click.echo(f"{connection.endpoints[-1]} {connection.timeout_s:g} {as_json}")
        click.echo(connection.tls.ca_file if connection.tls is not None else "plain")

    given = ["--endpoint", "c1,c2:7", "--timeout", "2", "--json", "--tls-ca", "ca.pem"]
    assert CliRunner().invoke(command, given).output == "c2:7 2 True\nca.pem\n"
    assert CliRunner().invoke(command).output == f"localhost:{DEFAULT_PORT} 5 False\nplain\n"
    assert "Say what was given" in CliRunner().invoke(command, ["--help"]).output
