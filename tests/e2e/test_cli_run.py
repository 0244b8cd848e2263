"""``tritium run`` as a process, on the demo model and on tiny ones."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

import tritium as package
from command_line import PROGRAM, tritium
from tiny_models import write_tiny

LINE = re.compile(
    r"^(\d+) tokens · [\d.e+]+ tok/s · [\d.e+-]+ ms/token · [\d.e+-]+ GB/s · "
    r"[\d.e+-]+ % of measured bandwidth [\d.e+]+ GB/s · memory \d+ MiB \+ \d+ MiB mapped · logits sha256 ([0-9a-f]{16})$"
)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "chat.gguf", "relu2_gqa_tied_chat")


def test_text_goes_to_stdout_and_figures_to_stderr() -> None:
    done = tritium("run", "ROMEO:", "-n", "20")
    with package.load("demo") as model:
        expected = model.generate("ROMEO:", max_tokens=20, measure=True)
        last = model.logits([*expected.prompt_ids, *expected.token_ids[:-1]])[-1]
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected.text + ("" if expected.text.endswith("\n") else "\n")
    lines = done.stderr.splitlines()
    match = LINE.match(lines[-1])
    assert match, lines[-1]
    assert match[1] == "20"
    assert match[2] == hashlib.sha256(last.tobytes()).hexdigest()[:16]
    assert lines[:-1] == ["no chat template applied"]


def test_the_prompt_comes_from_an_argument_a_file_or_stdin(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("JULIET:\nO", encoding="utf-8")
    runs = [
        tritium("run", "JULIET:\nO", "-n", "8", "-q"),
        tritium("run", "-f", tmp_path / "prompt.txt", "-n", "8", "-q"),
        tritium("run", "-n", "8", "-q", text="JULIET:\nO\n"),
    ]
    assert [(done.returncode, done.stderr) for done in runs] == [(0, "")] * 3
    assert len({done.stdout for done in runs}) == 1
    assert runs[0].stdout.strip()


@pytest.mark.parametrize("threads", ["1", "3"])
def test_every_way_of_running_gives_one_hash(threads: str) -> None:
    def fields(*arguments: str, **environment: str) -> tuple[str, str, str]:
        done = tritium("run", "To be", "-n", "6", "--json", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        return document["text"], document["figures"]["logits_sha256"], document["graph_hash"]

    native = fields("--threads", threads)
    assert native == fields("--backend", "reference")
    assert native == fields("--threads", threads, TRITIUM_ISA="scalar")


def test_json_holds_what_a_program_needs() -> None:
    arguments = ["--temperature", "0.8", "--top-k", "40", "--seed", "7", "--logprobs", "2", "--stop", "nowhere"]
    done = tritium("run", "ROMEO:", "-n", "5", "--json", *arguments, "--logit-bias", "9=-1.5")
    document = json.loads(done.stdout)
    assert len(document["token_ids"]) == len(document["token_ns"]) == len(document["logprobs"]) == 5
    assert [entry["token_id"] for entry in document["logprobs"]] == document["token_ids"]
    assert document["finish_reason"] == "length"
    assert document["sampling"]["seed"] == 7
    assert document["sampling"]["logit_bias"] == {"9": -1.5}
    assert document["figures"]["n_tokens"] == 5
    with package.load("demo") as model:
        again = model.generate(
            "ROMEO:", max_tokens=5, temperature=0.8, top_k=40, seed=7, logprobs=2, stop="nowhere", logit_bias={9: -1.5}
        )
    assert list(again.token_ids) == document["token_ids"]


def test_a_chat_template_is_applied_where_the_file_brings_one(chat_model: Path) -> None:
    def ids(*arguments: str) -> tuple[list[int], str]:
        done = tritium("run", "-m", chat_model, "Who", "-n", "2", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["prompt_ids"], done.stderr.splitlines()[0]

    with package.load(chat_model) as model:
        plain = model.tokenize("Who")
        wrapped = model.tokenize("User: Who<|eot_id|>Assistant: ", parse_special=True)
        eot = model.tokenizer.eot_id
    assert ids() == (wrapped, "chat template applied")
    assert ids("--chat") == (wrapped, "chat template applied")
    assert ids("--no-chat") == (plain, "no chat template applied")
    done = tritium("run", "-m", chat_model, "a<|eot_id|>", "--no-chat", "-n", "1", "--json")
    assert eot not in json.loads(done.stdout)["prompt_ids"]
    done = tritium("run", "-m", chat_model, "a<|eot_id|>", "--no-chat", "--parse-special", "-n", "1", "--json")
    assert json.loads(done.stdout)["prompt_ids"][-1] == eot


def test_end_tokens_are_passed_over_on_demand(chat_model: Path) -> None:
    arguments = ["run", "-m", str(chat_model), "a", "-n", "4", "--json", "--logit-bias", "265=900"]
    assert json.loads(tritium(*arguments).stdout)["token_ids"] == [265]
    assert json.loads(tritium(*arguments, "--ignore-eos").stdout)["token_ids"] == [265] * 4


def test_a_full_context_is_said() -> None:
    done = tritium("run", "ROMEO:", "-n", "99", "--max-context", "12", "--ignore-eos")
    assert done.returncode == 0
    assert "context of 12 is full" in done.stderr
    done = tritium("run", "ROMEO: " * 12, "--max-context", "12")
    assert done.returncode == 2
    assert re.fullmatch(
        r"tritium: prompt does not fit the context: expected at most 11 tokens, got \d+.*\n", done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-m", "missing.gguf"], 3, "missing.gguf: No such file or directory"),
        (["--top-p", "0"], 2, "top_p: expected above 0, at most 1, got 0.0"),
        (["--logit-bias", "x"], 2, "--logit-bias: expected ID=BIAS, got 'x'"),
        (["--logit-bias", "99999999=1"], 2, "logit_bias: expected token ids below"),
        (["--threads", "0"], 2, "threads: expected 1 to 1024, got 0"),
        (["--max-context", "0"], 2, "max_context: expected 1 to"),
        (["--backend", "magic"], 4, "unknown back end"),
        (["--i2s-layout", "7"], 2, "unknown I2_S layout"),
        (["--logprobs", "2"], 2, "--logprobs needs --json"),
        (["-f", "x.txt"], 2, "exclude each other"),
        (["--typical-p", "0.5"], 2, "typical_p: expected a temperature above 0"),
    ],
    ids=str,
)
def test_mistakes_are_one_line_with_their_code(arguments: list[str], code: int, message: str) -> None:
    done = tritium("run", "x", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_broken_files_exit_4_and_name_the_file(tmp_path: Path, chat_model: Path) -> None:
    data = chat_model.read_bytes()
    for name, content in (("empty", b""), ("short", data[: len(data) // 2]), ("text", b"hello world, no model")):
        (tmp_path / name).write_bytes(content)
        done = tritium("run", "-m", tmp_path / name, "x")
        assert done.returncode == 4
        assert str(tmp_path / name) in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_an_interrupt_keeps_what_there_is() -> None:
    process = subprocess.Popen(
        [*PROGRAM, "run", "ROMEO:", "-n", "4000", "--ignore-eos"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    with package.load("demo") as model:
        whole = model.generate("ROMEO:", max_tokens=None, ignore_eos=True).text
    text = (first + out).decode()
    assert whole.startswith((text, text.removesuffix("\n")))
    assert LINE.match(err.decode().splitlines()[-1]) or "1 token" in err.decode()


def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.Popen(
        [*PROGRAM, "run", "ROMEO:", "-n", "4000", "--ignore-eos"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    os.read(process.stdout.fileno(), 4)
    process.stdout.close()
    started = time.monotonic()
    assert process.wait(timeout=60) == 0
    assert time.monotonic() - started < 20
    assert process.stderr.read().decode() == "no chat template applied\n"
    process.stderr.close()
