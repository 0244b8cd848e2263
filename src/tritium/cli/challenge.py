"""Challenge a runner: open what was committed to, or run a fresh prompt by your clock."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritium.cli import json_option, note, print_json
from tritium.cli._socket import ask

if TYPE_CHECKING:
    from tritium.gates import Check, Verdict

_path = click.Path(path_type=Path)
_model = click.option("-m", "--model", type=_path, help="The model, matched by hash. [default: demo]")
_output = click.option("-o", "--output", type=_path, required=True, help="Write here.")


@click.group(short_help=__doc__)
def command() -> None:
    """Ask a runner for what nobody could have prepared, and check the answer.

    "open" picks random positions of a receipt's trace, after the receipt is there: the runner shows what was computed at them
    (tritium respond), and "check" follows it through the model without running it. Level E5a. "run" sends a random prompt: the
    answer is a receipt with the challenge's nonce, replayed and held against the verifier's own clock. Level E6: at least
    this fast, on whatever it ran. Exit codes as of verify-receipt.
    """


@command.command("open")
@click.argument("receipt", type=_path)
@click.option("--positions", type=click.IntRange(1, 4096), default=4, show_default=True, help="Positions to open.")
@click.option(
    "--layers", type=click.IntRange(0, 4096), default=2, show_default=True, help="Layers whose attention is opened."
)
@_output
@json_option
def open_(receipt: Path, positions: int, layers: int, output: Path, as_json: bool) -> None:
    """Choose random positions and layers of RECEIPT's trace."""
    from tritium.evidence.challenge import ask_openings

    _write(output, ask_openings(_receipt(receipt), time.time_ns(), positions, layers), as_json)


@command.command()
@_model
@click.option(
    "--prompt-tokens", type=click.IntRange(1), default=16, show_default=True, help="Tokens of the random prompt."
)
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="The most tokens to generate.")
@click.option("--socket", "address", type=_path, help="Ask the runner at this socket now; --output takes its receipt.")
@_output
@json_option
def run(model: Path | None, prompt_tokens: int, tokens: int, address: Path | None, output: Path, as_json: bool) -> None:
    """Ask for the continuation of a random prompt."""
    from tritium.engine.model import DEMO, resolve_model
    from tritium.evidence.challenge import ask_run
    from tritium.formats.gguf import open_gguf
    from tritium.models import build_graph

    file = open_gguf(resolve_model(DEMO if model is None else model))
    try:
        vocab_size = build_graph(file).config.vocab_size
        challenge = ask_run(file.sha256(), vocab_size, time.time_ns(), prompt_tokens, tokens)
    finally:
        file.close()
    if address is None:
        _write(output, challenge, as_json)
        return
    start = time.perf_counter_ns()
    answer = ask(address, json.dumps(challenge).encode())
    elapsed = time.perf_counter_ns() - start
    output.write_bytes(answer)
    _conclude(answer, _run_checks(challenge, answer, model, elapsed), as_json)


@command.command()
@click.argument("challenge", type=_path)
@click.argument("response", type=_path)
@click.option("--receipt", type=_path, help="Of openings: the receipt that they are about.")
@_model
@json_option
def check(challenge: Path, response: Path, receipt: Path | None, model: Path | None, as_json: bool) -> None:
    """Check RESPONSE to CHALLENGE. The time of a run is from the challenge to this moment."""
    from tritium.evidence.challenge import opening_checks, parse, read_answer

    asked = parse(challenge.read_bytes(), str(challenge))
    answer = response.read_bytes()
    if asked["kind"] == "run":
        elapsed = time.time_ns() - int(asked["issued_ns"])
        _conclude(answer, _run_checks(asked, answer, model, elapsed), as_json)
        return
    if receipt is None:
        raise click.UsageError("openings are about a receipt: give --receipt FILE")
    checks = opening_checks(asked, read_answer(answer, str(response)), _receipt(receipt), model)
    _conclude(receipt.read_bytes(), checks, as_json)


def _receipt(path: Path) -> dict[str, Any]:
    from tritium.cli._binding import receipt_in
    from tritium.errors import FormatError
    from tritium.receipts import schema

    value = receipt_in(path.read_bytes())
    wrong = next(schema.violations(value), None)
    if wrong is not None:
        raise FormatError("not a receipt", where=f"{path}: {wrong}")
    return value


def _run_checks(challenge: dict[str, Any], answer: bytes, model: Path | None, elapsed_ns: int) -> list[Check]:
    from tritium.evidence.challenge import clock_checks
    from tritium.evidence.replay import replay_checks
    from tritium.gates import judge, read_policy
    from tritium.receipts.strict_json import loads

    if judge(answer).failed:
        return []
    receipt = loads(answer)
    least = read_policy().get("challenge", "least_share")
    return [*clock_checks(challenge, receipt, elapsed_ns, least), *replay_checks(receipt, model)]


def _conclude(receipt: bytes, checks: list[Check], as_json: bool) -> None:
    from tritium.cli._binding import receipt_in
    from tritium.errors import FormatError
    from tritium.gates import judge
    from tritium.receipts import jcs

    try:
        receipt = jcs.canonical(receipt_in(receipt))
    except FormatError:
        checks = []
    verdict: Verdict = judge(receipt, binding=checks)
    if as_json:
        print_json(verdict.as_json())
    else:
        click.echo("\n".join(verdict.lines()))
    undecided = any(each.status == "INCONCLUSIVE" for each in checks)
    click.get_current_context().exit(verdict.exit_code or (8 if undecided or not checks else 0))


def _write(path: Path, challenge: dict[str, Any], as_json: bool) -> None:
    from tritium.receipts.files import write_text

    write_text(path, json.dumps(challenge) + "\n")
    if as_json:
        print_json(challenge)
    note(f"{path}: send it to the runner; he answers with tritium respond")
