"""Answer a verifier's challenge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritium.cli import json_option, note, print_json
from tritium.cli._generation import load_model, model_options
from tritium.cli._socket import local_socket, serve

if TYPE_CHECKING:
    from tritium.engine.model import Model

_path = click.Path(path_type=Path)


@click.command(short_help=__doc__)
@click.argument("challenge", required=False, type=_path)
@model_options
@click.option("--receipt", type=_path, help="Of openings: the receipt that they are about.")
@click.option("-o", "--output", type=_path, help="Write the answer here.")
@click.option(
    "--listen", "address", type=_path, metavar="SOCKET", help="Answer challenges to run at this local socket."
)
@click.option("--once", is_flag=True, help="With --listen: one challenge, then end.")
@json_option
def command(
    challenge: Path | None,
    receipt: Path | None,
    output: Path | None,
    address: Path | None,
    once: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer CHALLENGE, a file of "tritium challenge": a run is done now, openings are computed again from the receipt.

    With --listen the model is loaded once, and challenges to run are answered as they come, until an interrupt.
    """
    if (challenge is None) == (address is None):
        raise click.UsageError("give a CHALLENGE or --listen SOCKET")
    if challenge is not None and output is None:
        raise click.UsageError("CHALLENGE needs --output FILE")
    from tritium.evidence.challenge import parse
    from tritium.evidence.record import bandwidth, fingerprints

    if address is not None:
        local_socket().close()
        with load_model(options, prefix_cache=False) as model:
            # What a receipt says of the model is hashed before the verifier's clock runs.
            model.file.sha256()
            fingerprints(model)
            probe = bandwidth(model)
            note(f"listening at {address}")
            serve(address, lambda question: _answer(question, "socket", model, probe), 1 if once else None)
        return
    assert challenge is not None
    assert output is not None
    data = challenge.read_bytes()
    if parse(data, str(challenge))["kind"] == "run":
        with load_model(options, prefix_cache=False) as model:
            output.write_bytes(_answer(data, str(challenge), model, bandwidth(model)))
    else:
        output.write_bytes(_openings(data, str(challenge), receipt, options["model"]))
    if as_json:
        print_json({"challenge": str(challenge), "answer": str(output), "nbytes": output.stat().st_size})
    note(f"{output}: the answer to {challenge}")


def _answer(question: bytes, where: str, model: Model, probe: dict[str, Any] | None) -> bytes:
    """The receipt of the run that was asked for, or for what cannot be run one line that says why."""
    from dataclasses import asdict

    from tritium.bench.machine import read_machine
    from tritium.engine.sampling import SamplingParams
    from tritium.errors import FormatError, TritiumError
    from tritium.evidence.challenge import parse
    from tritium.evidence.record import build_receipt
    from tritium.evidence.recorder import recorder
    from tritium.receipts.strict_json import text_of

    try:
        asked = parse(question, where)
        if asked["kind"] != "run":
            raise FormatError("challenge", where=where, expected="one to run", got=asked["kind"])
        watch = recorder(model, asked["nonce"])
        params = SamplingParams(max_tokens=asked["max_tokens"])
        with model.stream(asked["prompt_ids"], params, measure=True, observer=watch) as stream:
            for _ in stream:
                pass
        machine = asdict(read_machine())
        return text_of(build_receipt(model, stream.result, watch, params, machine=machine, probe=probe)).encode()
    except TritiumError as error:
        note(str(error))
        return f"{error}\n".encode()


def _openings(data: bytes, where: str, receipt: Path | None, model: str | None) -> bytes:
    from tritium.cli._binding import receipt_in
    from tritium.engine.model import DEMO, resolve_model
    from tritium.evidence.challenge import open_positions, parse

    if receipt is None:
        raise click.UsageError("openings are about a receipt: give --receipt FILE")
    place = resolve_model(DEMO if model is None else model)
    return open_positions(parse(data, where), receipt_in(receipt.read_bytes()), place)
