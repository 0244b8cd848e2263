"""Talk with a model that was tuned on conversations."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from tritium.cli import note
from tritium.cli._generation import (
    figures,
    interruptible,
    load_model,
    model_options,
    sampling_options,
    sampling_params,
)
from tritium.errors import ShapeError

if TYPE_CHECKING:
    from tritium.engine.model import Model
    from tritium.engine.sampling import SamplingParams

COMMANDS = "/reset forgets the conversation, /system TEXT sets the system message, /exit leaves"
QUOTES = '"""'


@dataclass(slots=True)
class Conversation:
    """What has been said: an optional system message and the turns after it."""

    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)

    def messages(self) -> list[dict[str, str]]:
        """All of it as messages."""
        return [*([] if self.system is None else [{"role": "system", "content": self.system}]), *self.turns]


@click.command(short_help=__doc__)
@model_options
@sampling_options
@click.option("--system", help="The system message.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line for each answer.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the answers; measure nothing.")
def command(system: str | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Talk with a model, a line a turn, from the terminal or from a pipe.

    A line that ends in a backslash goes on in the next one; three double quotes begin a text of several lines and three more
    end it. /reset forgets the conversation, /system TEXT sets the system message (and forgets the rest), /exit or the end of the
    input leaves. Ctrl-C stops an answer, keeps what there is of it, and goes on.
    """
    with load_model(options, quiet=quiet) as model:
        params = sampling_params(options)
        conversation = Conversation(system)
        _check_format(model)
        if not model.has_chat_template and not quiet:
            note("the file brings no chat template: the format of its architecture is used")
        terminal = sys.stdin.isatty()
        if terminal and not quiet:
            note(COMMANDS)
        for text in turns(_lines(terminal)):
            if text.startswith("/"):
                if not _obey(text, conversation):
                    return
            elif text.strip():
                try:
                    _answer(model, conversation, text, params, as_json, quiet)
                except ShapeError as error:
                    # At a terminal the way out is /reset; a script has to know that an answer is missing.
                    conversation.turns.pop()
                    if not terminal:
                        raise
                    note(f"{error}. {COMMANDS}.")


def _check_format(model: Model) -> None:
    """Refuse a model without a chat format before anybody types."""
    from tritium.engine.chat import encode_chat

    encode_chat(model.tokenizer, [{"role": "user", "content": "?"}])


def _lines(terminal: bool) -> Iterator[str | None]:
    """Lines of input; None where Ctrl-C took one back."""
    if not terminal:
        for data in sys.stdin.buffer:
            try:
                yield data.decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                raise click.UsageError(f"standard input is not UTF-8 text: byte {error.start} of a line") from None
        return
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (gives input() its editing and history)
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            note("")
            yield None
        except EOFError:
            return


def turns(lines: Iterator[str | None]) -> Iterator[str]:
    """Join lines into what is said at a time: backslashes and triple quotes as the command describes."""
    held: list[str] = []
    quoted = False
    for line in lines:
        if line is None:
            held, quoted = [], False
            continue
        if not quoted and not held and line.lstrip().startswith(QUOTES):
            quoted, line = True, line.lstrip().removeprefix(QUOTES)
        if quoted:
            text, end, _ = line.partition(QUOTES)
            held.append(text)
            if not end:
                continue
        elif line.endswith("\\"):
            held.append(line.removesuffix("\\"))
            continue
        else:
            held.append(line)
        yield "\n".join(held).strip("\n") if quoted else "\n".join(held)
        held, quoted = [], False
    if held:
        yield "\n".join(held)


def _obey(text: str, conversation: Conversation) -> bool:
    """Carry out a command; False ends the session."""
    name, _, rest = text.partition(" ")
    if name == "/exit":
        return False
    if name == "/reset":
        conversation.turns.clear()
    elif name == "/system":
        conversation.system = rest.strip() or None
        conversation.turns.clear()
    else:
        note(f"unknown command {name}: {COMMANDS}")
    return True


def _answer(
    model: Model, conversation: Conversation, text: str, params: SamplingParams, as_json: bool, quiet: bool
) -> None:
    """Say ``text`` and print the answer, which becomes part of the conversation even if it was cut short."""
    conversation.turns.append({"role": "user", "content": text})
    cancel = threading.Event()
    write: Callable[[str], None] = (lambda _: None) if as_json else (lambda piece: click.echo(piece, nl=False))
    with (
        interruptible(cancel),
        model.chat_stream(conversation.messages(), params, cancel=cancel, measure=not quiet) as stream,
    ):
        for piece in stream:
            write(piece)
        result = stream.result
        conversation.turns.append({"role": "assistant", "content": result.text})
        measured = None if quiet else figures(model, result)
    write("\n")
    if as_json:
        document: dict[str, object] = {
            "text": result.text,
            "token_ids": list(result.token_ids),
            "prompt_tokens": result.prompt_tokens,
            "finish_reason": result.finish_reason,
            "finish_detail": result.finish_detail,
        }
        if measured is not None:
            document["figures"] = measured.as_json()
        click.echo(json.dumps(document, ensure_ascii=False, allow_nan=False))
    if measured is not None:
        note(measured.line())
    if result.finish_reason != "stop" and not quiet:
        note(f"the answer is not complete: {result.finish_detail}")
