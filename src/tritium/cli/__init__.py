"""The command line: one file a command, found by its name and imported only when it is invoked.

``cli/<name>.py`` holds ``command``, a click command, and a docstring whose first line is its short help. An underscore
in the file's name is a dash in the command's; a file whose name starts with an underscore is no command.

Results go to stdout; progress, logs and errors go to stderr. A failure is one line; ``-v`` adds the traceback.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import tritium
from tritium import env
from tritium.errors import TritiumError

EXIT_CODES = {
    0: "done",
    1: "failure; of a check: rejected",
    2: "wrong usage",
    3: "a file was not found or cannot be read",
    4: "a file is invalid or not supported",
    5: "the numbers cannot be trusted, or strict mode refused",
    6: "a regression gate refused",
    8: "inconclusive",
    130: "interrupted",
}


@dataclass(slots=True)
class Invocation:
    """What one run of the program knows before any command starts; ``click.Context.obj`` holds it."""

    verbose: bool = False


kv_option = click.option(
    "--kv",
    type=click.Choice(("f16", "int8")),
    default="f16",
    show_default=True,
    help="How keys and values are kept; int8 takes half the memory and gives other results.",
)

weight_layout_option = click.option(
    "--weight-layout",
    default="auto",
    show_default=True,
    help="Ternary weights in memory, with the same result: 2bit, 1.6bit, or auto (of a large matrix what is quicker here).",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


def print_json(value: object) -> None:
    """Print ``value`` as one JSON document on stdout. Errors: ValueError if it holds NaN or Inf."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def note(message: str) -> None:
    """Print one line of progress or explanation on stderr."""
    click.echo(message, err=True)


def _set_verbose(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    invocation = context.find_object(Invocation)
    if value and invocation is not None:
        invocation.verbose = True


_verbose_option = click.Option(
    ["-v", "--verbose"],
    is_flag=True,
    expose_value=False,
    callback=_set_verbose,
    help="Show the traceback of a failure.",
)


def _add_verbose(command: click.Command) -> None:
    if _verbose_option not in command.params:
        command.params.append(_verbose_option)
    for part in command.commands.values() if isinstance(command, click.Group) else ():
        _add_verbose(part)


class Commands(click.Group):
    """The commands of this folder."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        files = Path(__file__).parent.glob("[a-z]*.py")
        return sorted(file.stem.replace("_", "-") for file in files)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None if there is no such file."""
        if cmd_name not in self.list_commands(ctx):
            return None
        import importlib

        module = importlib.import_module(f"tritium.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        command.name = cmd_name
        _add_verbose(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command's short help, read from its file: ``--help`` must not import the engine."""
        rows = [(name, _short_help(name)) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


def _short_help(name: str) -> str:
    source = Path(__file__).with_name(name.replace("-", "_") + ".py").read_text(encoding="utf-8")
    return source.removeprefix('"""').split('"""', 1)[0].splitlines()[0].strip()


@click.command(
    cls=Commands,
    no_args_is_help=False,
    params=[_verbose_option],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(tritium.__version__, prog_name="tritium", message="%(prog)s %(version)s")
def program() -> None:
    """Run ternary ("1.58-bit") language models. A model is a GGUF file, or "demo": the one inside the package."""


def _explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the one line that an exception stands for."""
    if isinstance(error, (KeyboardInterrupt, click.Abort, EOFError)):
        return 130, "interrupted"
    if isinstance(error, TritiumError):
        return error.exit_code, str(error)
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx is not None else "tritium"
        return 2, f"{error.format_message().rstrip('.')}. Try '{where} --help'."
    if isinstance(error, click.FileError):
        return 3, error.format_message()
    if isinstance(error, click.ClickException):
        return error.exit_code, error.format_message()
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        code = 1 if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else 3
        return code, f"{error.filename}: {reason}" if error.filename is not None else reason
    if isinstance(error, MemoryError):
        return 1, "out of memory"
    return 1, f"internal error: {type(error).__name__}: {error}. Run with -v for the traceback."


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code, a key of ``EXIT_CODES``."""
    invocation = Invocation()
    try:
        settings: dict[str, Any] = {"obj": invocation, "color": False if env.no_color() else None}
        try:
            env.threads()
            env.seed()
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        with program.make_context("tritium", list(arguments), **settings) as context:
            if not arguments:
                note(context.get_help())
                return 2
            program.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        # The reader has what it wanted. Flushing what is left at exit would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if invocation.verbose:
            import traceback

            traceback.print_exc()
        code, line = _explain(error)
        click.echo("tritium: " + " ".join(line.split()), err=True)
        return code
    return 0


def main() -> None:
    """Entry point of the console script ``tritium``. Its streams are UTF-8: the code page of a pipe on Windows lacks signs."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(encoding="utf-8", errors=stream.errors)
    sys.exit(invoke(sys.argv[1:]))
