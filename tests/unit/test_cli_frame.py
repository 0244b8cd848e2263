"""The frame of the command line: exit codes, one-line errors, pipes."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from tritium import cli
from tritium.errors import FormatError, GateError, NumericsError, ShapeError, TritiumError, UnsupportedError


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """A command ``fail`` that raises the exception put into the list."""
    errors: list[BaseException] = []

    @click.command()
    @cli.json_option
    def command(as_json: bool) -> None:
        if as_json:
            cli.print_json({"ok": True})
        if errors:
            raise errors[0]

    monkeypatch.setattr(cli.Commands, "list_commands", lambda *_: ["fail"])
    monkeypatch.setitem(sys.modules, "tritium.cli.fail", type("module", (), {"command": command}))
    return errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TritiumError("it failed"), 1),
        (GateError("refused"), 1),
        (ShapeError("prompt too long"), 2),
        (click.UsageError("no such option"), 2),
        (click.BadParameter("not a number"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "m.gguf"), 3),
        (PermissionError(errno.EACCES, "Permission denied", "m.gguf"), 3),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "m.gguf"), 3),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (FormatError("truncated"), 4),
        (UnsupportedError("unknown architecture"), 4),
        (NumericsError("NaN"), 5),
        (MemoryError(), 1),
        (RuntimeError("surprise\nin two lines"), 1),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_codes(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    failing.append(error)
    assert cli.invoke(["fail"]) == code
    assert code in cli.EXIT_CODES
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("tritium: ")


def test_verbose_adds_the_traceback(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(FormatError("truncated", where="m.gguf", expected=8, got=7))
    for arguments in (["-v", "fail"], ["fail", "-v"]):
        assert cli.invoke(arguments) == 4
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == "Traceback (most recent call last):"
        assert lines[-1] == "tritium: truncated: m.gguf: expected 8, got 7"


def test_a_file_error_names_the_file(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(FileNotFoundError(errno.ENOENT, "No such file or directory", "m.gguf"))
    cli.invoke(["fail"])
    assert capsys.readouterr().err == "tritium: m.gguf: No such file or directory\n"


def test_success_prints_only_the_result(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    assert not failing
    assert cli.invoke(["fail", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out == '{\n  "ok": true\n}\n'
    assert captured.err == ""


def test_json_refuses_what_json_has_not() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        cli.print_json({"x": float("nan")})


def test_wrong_usage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.invoke(["nothing-of-the-kind"]) == 2
    assert capsys.readouterr().err == "tritium: No such command 'nothing-of-the-kind'. Try 'tritium --help'.\n"
    assert cli.invoke([]) == 2
    assert "Usage: tritium" in capsys.readouterr().err
    monkeypatch.setenv("TRITIUM_THREADS", "none")
    assert cli.invoke(["--version"]) == 2
    assert "TRITIUM_THREADS" in capsys.readouterr().err


def test_help_lists_every_command_with_its_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["--help"]) == 0
    text = capsys.readouterr().out
    for name in cli.program.list_commands(click.Context(cli.program)):
        assert f"\n  {name} " in text
    for code, meaning in cli.EXIT_CODES.items():
        assert f"{code} " in text
        assert meaning in text


def test_every_command_has_json_verbose_and_short_help() -> None:
    context = click.Context(cli.program)
    for name in cli.program.list_commands(context):
        command = cli.program.get_command(context, name)
        assert command is not None
        for part in command.commands.values() if isinstance(command, click.Group) else [command]:
            assert {"--json", "--verbose"} <= options(part), f"{name} {part.name}"
        assert cli._short_help(name).endswith("."), name


def options(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def test_a_closed_pipe_is_no_error() -> None:
    code = "import sys; from tritium.cli import invoke; sys.stdin.readline(); sys.exit(invoke(['--help']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate("go\n")
    assert (process.returncode, err) == (0, "")
