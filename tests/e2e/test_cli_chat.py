"""``tritium chat`` as a process."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

import tritium as package
from command_line import PROGRAM, tritium
from tiny_models import write_tiny
from tritium.cli.chat import turns
from tritium.engine.chat import encode_chat


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "chat.gguf", "relu2_gqa_tied_chat")


def answers(model: Path, text: str, *arguments: str) -> list[dict[str, object]]:
    done = tritium("chat", "-m", model, "-n", "6", "-q", "--json", *arguments, text=text)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_conversation_from_a_pipe_remembers(model: Path) -> None:
    found = answers(model, "Hello\nAnd then?\n")
    with package.load(model) as loaded:
        messages = [{"role": "user", "content": "Hello"}]
        first = loaded.chat(messages, max_tokens=6)
        messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And then?"}]
        second = loaded.chat(messages, max_tokens=6)
        assert found[1]["prompt_tokens"] == len(encode_chat(loaded.tokenizer, messages))
    assert [entry["token_ids"] for entry in found] == [list(first.token_ids), list(second.token_ids)]


def test_reset_system_and_exit(model: Path) -> None:
    alone = answers(model, "Hello\n")[0]
    assert answers(model, "Who?\n/reset\nHello\n/exit\nnever\n")[1] == alone
    ruled = answers(model, "Hello\n", "--system", "Be brief")[0]
    assert ruled["prompt_tokens"] != alone["prompt_tokens"]
    assert answers(model, "/system Be brief\nHello\n/system\nHello\n") == [ruled, alone]


def test_answers_are_text_and_notes_are_not(model: Path) -> None:
    done = tritium("chat", "-m", model, "-n", "3", text="Hello\n/what\n\n")
    with package.load(model) as loaded:
        expected = loaded.chat([{"role": "user", "content": "Hello"}], max_tokens=3).text
    assert (done.returncode, done.stdout) == (0, expected + "\n")
    assert "3 tokens · " in done.stderr
    assert "the answer is not complete: max_tokens 3" in done.stderr
    assert "unknown command /what" in done.stderr


def test_a_conversation_beyond_the_context_fails_in_a_script(model: Path) -> None:
    done = tritium("chat", "-m", model, "--max-context", "30", text="Hello there, this is long\n")
    assert done.returncode == 2
    assert "prompt does not fit the context" in done.stderr


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["a\\", "b", "c"], ["a\nb", "c"]),
        (['"""', "a", "", "b", '"""', "c"], ["a\n\nb", "c"]),
        (['"""a', 'b"""'], ["a\nb"]),
        (['  """one"""', "x"], ["one", "x"]),
        (["a\\"], ["a"]),
        (['"""a', "b"], ["a\nb"]),
        (["a\\", None, "b"], ["b"]),
        (['"""a', None, "b"], ["b"]),
        (['say """ aloud'], ['say """ aloud']),
    ],
    ids=str,
)
def test_lines_join_into_turns(lines: list[str | None], expected: list[str]) -> None:
    assert list(turns(iter(lines))) == expected


class Terminal:
    """A chat in a pseudo-terminal."""

    def __init__(self, *arguments: str | Path) -> None:
        self.end, inner = pty.openpty()
        # A job in the background of a script ignores interrupts, and so would its children; a terminal's do not.
        self.process = subprocess.Popen(
            [*PROGRAM, "chat", *map(str, arguments)], stdin=inner, stdout=inner, stderr=inner, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.close(inner)
        self.seen = ""

    def wait_for(self, text: str) -> None:
        """Read until ``text`` has appeared, and forget everything up to its end."""
        deadline = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.end], [], [], 0.1)[0]:
                self.seen += os.read(self.end, 4096).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())


def test_an_interrupt_stops_the_answer_and_keeps_the_session(model: Path) -> None:
    terminal = Terminal("-m", model, "--ignore-eos", "-n", "100000", "--backend", "reference")
    try:
        terminal.wait_for("> ")
        terminal.type("Hello\n")
        terminal.wait_for("Hello")
        time.sleep(0.5)
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("the answer is not complete: cancelled after")
        terminal.wait_for("> ")
        time.sleep(0.5)  # the line editor writes its prompt before it listens for signals
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("> ")
        terminal.type("/exit\n")
        assert terminal.process.wait(timeout=30) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.end)
