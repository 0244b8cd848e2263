"""Sign a receipt: a DSSE envelope over an in-toto Statement."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tritium.cli import json_option, note, print_json

if TYPE_CHECKING:
    from tritium.receipts.log_records import Intent
    from tritium.receipts.statement import IntentReference


@click.command(short_help=__doc__)
@click.argument("receipt", type=click.Path(path_type=Path))
@click.option(
    "--key", "key_path", type=click.Path(path_type=Path), required=True, help="The private key, from tritium keygen."
)
@click.option("--nonce", help="What the verifier sent, so that he knows the run is not older. [default: the intent's]")
@click.option(
    "--intent",
    "intent_path",
    type=click.Path(path_type=Path),
    metavar="PROOF",
    help="What tritium log append --intent wrote before the run.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write here. [default: RECEIPT with .dsse.json]")
@json_option
def command(
    receipt: Path, key_path: Path, nonce: str | None, intent_path: Path | None, output: Path | None, as_json: bool
) -> None:
    """Sign RECEIPT with an Ed25519 key.

    The envelope holds the receipt whole, and names what it is about: model file and tensors, prompt and output ids, and
    whatever else the receipt carries a hash of. Its id is the SHA-256 of its RFC 8785 form.
    """
    from tritium.errors import FormatError, GateError
    from tritium.receipts import schema
    from tritium.receipts.dsse import sign_payload
    from tritium.receipts.log_records import intent_mismatch
    from tritium.receipts.sign import read_private_key
    from tritium.receipts.statement import check_nonce, receipt_id, receipt_statement
    from tritium.receipts.strict_json import loads

    if nonce is not None:
        check_nonce(nonce, "--nonce")
    document = loads(receipt.read_bytes())
    wrong = next(schema.violations(document), None)
    if wrong is not None:
        raise FormatError("not a receipt", where=f"{receipt}: {wrong}", hint="Signing does not make it one")
    key = read_private_key(key_path)
    reference = None
    if intent_path is not None:
        intent, reference = _read_intent(intent_path)
        nonce = nonce or intent.nonce
        mismatch = intent_mismatch(intent, document, key.public.id, nonce)
        if mismatch is not None:
            raise GateError("the intent announced another run", where=str(intent_path), got=mismatch)
    statement = receipt_statement(document, datetime.now(UTC), nonce=nonce, intent=reference)
    envelope = sign_payload(statement, [key])
    target = output or receipt.with_suffix(".dsse.json")
    target.write_bytes(envelope.to_bytes())
    identity = receipt_id(document)
    if as_json:
        print_json({"receipt_id": identity, "key_id": key.public.id, "nonce": nonce, "envelope": str(target)})
        return
    click.echo(identity)
    note(f"{target}: signed by {key.public.id}")


def _read_intent(path: Path) -> tuple[Intent, IntentReference]:
    """The announcement that a proof carries; whether the log holds it is for the verifier to see."""
    from tritium.errors import FormatError
    from tritium.receipts.log_proof import read_proof_text, split_proof
    from tritium.receipts.log_records import Intent, parse_entry
    from tritium.receipts.merkle import leaf_hash
    from tritium.receipts.notes import read_origin
    from tritium.receipts.statement import IntentReference

    entry, index, _, checkpoint = split_proof(read_proof_text(path), str(path))
    intent = parse_entry(entry, str(path))
    if not isinstance(intent, Intent):
        raise FormatError("not the proof of an intent", where=str(path), got="a result")
    return intent, IntentReference(read_origin(checkpoint), index, leaf_hash(entry).hex())
