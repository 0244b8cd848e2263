"""Keep an append-only log of runs: announce, register, prove, verify."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tritium.cli import json_option, note, print_json

if TYPE_CHECKING:
    from tritium.receipts.keys import Trust
    from tritium.receipts.log_records import Faults, Intent, Result
    from tritium.receipts.notes import Checkpoint

SHOWN_ORPHANS = 20

_folder = click.argument("folder", type=click.Path(path_type=Path))
_key = click.option("--key", "key_path", type=click.Path(path_type=Path), required=True, help="The log's private key.")
_trust = click.option(
    "--trust", "trust_path", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The keys to trust."
)
_output = click.option("-o", "--output", type=click.Path(path_type=Path), help="Write here. [default: stdout]")


@click.group(short_help=__doc__)
def command() -> None:
    """Keep a log that can only grow: an RFC 6962 tree in C2SP tiles on plain files, under a signed checkpoint.

    A run is announced before it starts and its receipt registered after it: a run whose receipt did not please leaves
    an announcement that nothing answers. Any file server can publish the folder.
    """


@command.command()
@_folder
@_key
@click.option("--origin", required=True, help="The log's name, like example.org/lab; its key bears it in a trust file.")
@json_option
def create(folder: Path, key_path: Path, origin: str, as_json: bool) -> None:
    """Make an empty log in FOLDER."""
    from tritium.receipts.ledger import create_log
    from tritium.receipts.notes import verifier_key
    from tritium.receipts.sign import read_private_key

    signer = read_private_key(key_path)
    create_log(folder, origin, signer)
    public = verifier_key(origin, signer.public)
    if as_json:
        print_json({"origin": origin, "verifier_key": public})
        return
    click.echo(public)
    note(f"{folder}: a log of 0 entries; the line above is its public key, as other tools take it")


@command.command()
@_folder
@click.argument("envelope", required=False, type=click.Path(path_type=Path))
@_key
@click.option("--intent", is_flag=True, help="Announce a run instead of registering an ENVELOPE.")
@click.option("--model", type=click.Path(path_type=Path), help='With --intent: the model, a file or "demo".')
@click.option("--model-sha256", help="With --intent: the model file's hash, if it is known.")
@click.option(
    "--prompt-ids",
    type=click.Path(path_type=Path),
    help="With --intent: the prompt's token ids, as tritium tokenize --ids.",
)
@click.option("--prompt-sha256", help="With --intent: the hash of the ids, as the receipt will have it.")
@click.option("--nonce", help="With --intent: what the verifier sent. [default: random]")
@click.option(
    "--signer",
    "signer_path",
    type=click.Path(path_type=Path),
    help="With --intent: the public key that will sign the receipt.",
)
@_output
@json_option
def append(
    folder: Path, envelope: Path | None, key_path: Path, intent: bool, model: Path | None, model_sha256: str | None,
    prompt_ids: Path | None, prompt_sha256: str | None, nonce: str | None, signer_path: Path | None, output: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Announce a run in the log in FOLDER, or register the signed receipt ENVELOPE; write the proof that it is in.

    The proof of an announcement goes into tritium sign --intent.
    """
    from tritium.receipts.ledger import append as append_entries
    from tritium.receipts.ledger import prove_inclusion
    from tritium.receipts.log_proof import encode_proof
    from tritium.receipts.sign import read_private_key

    announced = (model, model_sha256, prompt_ids, prompt_sha256, nonce, signer_path)
    if intent == (envelope is not None) or (not intent and any(each is not None for each in announced)):
        raise click.UsageError("either an ENVELOPE, or --intent and what it announces")
    if intent and (
        (model is None) == (model_sha256 is None)
        or (prompt_ids is None) == (prompt_sha256 is None)
        or signer_path is None
    ):
        raise click.UsageError(
            "--intent needs --model or --model-sha256, --prompt-ids or --prompt-sha256, and --signer"
        )
    signer = read_private_key(key_path)
    if envelope is not None:
        record: Intent | Result = _result(folder, envelope)
    else:
        assert signer_path is not None
        record = _intent(model, model_sha256, prompt_ids, prompt_sha256, nonce, signer_path)
    checkpoint = append_entries(folder, [record.to_entry()], signer)
    # Another process may have appended since; the entry is then still the last one of *this* checkpoint.
    proof = prove_inclusion(folder, checkpoint, checkpoint.size - 1)
    _emit(encode_proof(proof), output, as_json)
    note(f"{folder}: entry {proof.index} of {checkpoint.origin}")


def _intent(
    model: Path | None, model_sha256: str | None, prompt_ids: Path | None, prompt_sha256: str | None, nonce: str | None,
    signer_path: Path,
) -> Intent:  # fmt: skip
    import hashlib
    import secrets

    from tritium.errors import FormatError
    from tritium.receipts.keys import parse_public_key
    from tritium.receipts.log_records import Intent, ids_sha256, parse_entry
    from tritium.receipts.statement import check_nonce
    from tritium.receipts.strict_json import loads

    if model is not None:
        from tritium.engine.model import resolve_model

        with resolve_model(model).open("rb") as file:
            model_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if prompt_ids is not None:
        data = prompt_ids.read_bytes().strip()
        ids = loads(data if data.startswith(b"[") else b"[" + b",".join(data.split()) + b"]")
        if not isinstance(ids, list):
            raise FormatError("not token ids", where=str(prompt_ids), expected="integers, or a JSON list of them")
        prompt_sha256 = ids_sha256(ids)
    key = parse_public_key(signer_path.read_text(encoding="utf-8"), str(signer_path))
    chosen = check_nonce(nonce if nonce is not None else secrets.token_urlsafe(16), "--nonce")
    record = Intent(model_sha256 or "", prompt_sha256 or "", key.id, chosen, datetime.now(UTC))
    parse_entry(record.to_entry(), "the announcement")
    return record


def _result(folder: Path, path: Path) -> Result:
    """The registration of an envelope whose announcement, if it names one, is in this log."""
    from tritium.errors import GateError
    from tritium.receipts.dsse import parse_envelope
    from tritium.receipts.ledger import CHECKPOINT, read_note
    from tritium.receipts.log_records import result_of
    from tritium.receipts.merkle import leaf_hash
    from tritium.receipts.notes import read_origin
    from tritium.receipts.statement import parse_receipt_statement
    from tritium.receipts.tiles import Tiles

    envelope = parse_envelope(path.read_bytes(), str(path))
    signed = parse_receipt_statement(envelope.payload)
    if signed.intent is not None:
        origin, size = read_note(folder / CHECKPOINT).split("\n")[:2]
        index = signed.intent.index
        if read_origin(origin) != signed.intent.log or not size.isdigit() or index >= int(size):
            raise GateError("announced in another log", where=str(path), got=f"{signed.intent.log}, entry {index}")
        if leaf_hash(Tiles(folder, int(size)).entry(index)).hex() != signed.intent.leaf:
            raise GateError("the log holds another announcement", where=str(path), got=f"entry {index}")
    return result_of(envelope, signed, datetime.now(UTC))


@command.command()
@_folder
@_trust
@click.option("--index", type=click.IntRange(0), help="Prove that this entry is in.")
@click.option("--receipt", type=click.Path(path_type=Path), help="Prove that this signed receipt is registered.")
@click.option("--since", type=click.Path(path_type=Path), help="Prove that the log continues this older checkpoint.")
@_output
@json_option
def prove(
    folder: Path, trust_path: Path, index: int | None, receipt: Path | None, since: Path | None, output: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Prove to others, who do not have the log in FOLDER, what it holds.

    The proof of an entry is a C2SP tlog-proof; tritium log verify reads both kinds.
    """
    if (index is not None) + (receipt is not None) + (since is not None) != 1:
        raise click.UsageError("one of --index, --receipt and --since")
    from tritium.receipts.keys import read_trust
    from tritium.receipts.ledger import open_trusted, prove_consistency, prove_inclusion, read_checkpoint, read_note
    from tritium.receipts.log_proof import encode_consistency, encode_proof

    trust = read_trust(trust_path)
    checkpoint = read_checkpoint(folder, trust)
    if since is not None:
        old, _ = open_trusted(read_note(since), trust, str(since))
        _emit(encode_consistency(old.size, prove_consistency(folder, old, checkpoint), checkpoint), output, as_json)
        return
    if receipt is not None:
        index = _find(folder, checkpoint, receipt)
    assert index is not None
    if index >= checkpoint.size:
        raise click.UsageError(f"--index: the log has {checkpoint.size} entries")
    _emit(encode_proof(prove_inclusion(folder, checkpoint, index)), output, as_json)


def _find(folder: Path, checkpoint: Checkpoint, path: Path) -> int:
    from tritium.errors import GateError
    from tritium.receipts.dsse import parse_envelope
    from tritium.receipts.log_records import Result, parse_entry
    from tritium.receipts.tiles import Tiles

    wanted = parse_envelope(path.read_bytes(), str(path)).sha256
    for index, entry in enumerate(Tiles(folder, checkpoint.size).entries()):
        record = parse_entry(entry, f"{folder}: entry {index}")
        if isinstance(record, Result) and record.envelope_sha256 == wanted:
            return index
    raise GateError("the receipt is not registered", where=str(folder), expected=f"envelope {wanted}")


@command.command()
@click.argument("path", type=click.Path(path_type=Path))
@_trust
@click.option("--since", type=click.Path(path_type=Path), help="An older checkpoint that the log has to continue.")
@click.option(
    "--max-orphans", type=click.IntRange(0), help="Reject a log with more announcements that nothing answers."
)
@json_option
def verify(path: Path, trust_path: Path, since: Path | None, max_orphans: int | None, as_json: bool) -> None:
    """Verify PATH: a whole log, or a proof from tritium log prove. Exit code 1 if it does not hold.

    Of a log, every file is read; announcements that nothing answers are listed. Keep the checkpoint and give it to
    --since the next time: a log that was cut or forked in between is found out.
    """
    from tritium.receipts.keys import read_trust
    from tritium.receipts.ledger import open_trusted, read_note

    trust = read_trust(trust_path)
    old = open_trusted(read_note(since), trust, str(since))[0] if since is not None else None
    if path.is_dir():
        _verify_folder(path, trust, old, max_orphans, as_json)
    else:
        _verify_proof(path, trust, old, as_json)


def _verify_folder(path: Path, trust: Trust, old: Checkpoint | None, max_orphans: int | None, as_json: bool) -> None:
    from dataclasses import asdict

    from tritium.errors import GateError
    from tritium.receipts.ledger import prove_consistency, read_checkpoint, verify_log
    from tritium.receipts.log_records import audit

    checkpoint = read_checkpoint(path, trust)
    entries = verify_log(path, checkpoint)
    if old is not None:
        prove_consistency(path, old, checkpoint)
    records, faults = audit(entries, str(path), datetime.now(UTC))
    if as_json:
        print_json(
            {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex(), **asdict(faults)}
        )
    else:
        _print_log(checkpoint, records, faults)
    if not faults.is_sound:
        raise GateError("the log's entries contradict each other", where=str(path))
    if max_orphans is not None and len(faults.orphans) > max_orphans:
        raise GateError(
            "too many runs without a receipt",
            where=str(path),
            expected=f"at most {max_orphans}",
            got=len(faults.orphans),
        )


def _print_log(checkpoint: Checkpoint, records: list[Intent | Result], faults: Faults) -> None:
    from tritium.receipts.log_records import Intent

    intents = sum(isinstance(record, Intent) for record in records)
    click.echo(f"{checkpoint.origin}: {checkpoint.size} entries, root {checkpoint.root.hex()}")
    click.echo(f"announced {intents}, registered {len(records) - intents}, orphans {len(faults.orphans)}")
    for index in faults.orphans[:SHOWN_ORPHANS]:
        record = records[index]
        assert isinstance(record, Intent)
        click.echo(
            f"orphan   {index}: {record.time:%Y-%m-%dT%H:%M:%SZ}, model {record.model_sha256[:16]}, key {record.key_id[:16]}"
        )
    if len(faults.orphans) > SHOWN_ORPHANS:
        click.echo(f"orphans  {len(faults.orphans) - SHOWN_ORPHANS} more")
    for first, second in faults.reused_timings:
        click.echo(f"fault    {second}: the timing of entry {first} under another id")
    for first, second in faults.repeated_receipts:
        click.echo(f"note     {second}: the receipt of entry {first} again")
    for first, second in faults.repeated_intents:
        click.echo(f"fault    {second}: entry {first} used or announced this before")
    for index in faults.dangling_results:
        click.echo(f"fault    {index}: answers an announcement that does not come before it")
    for index in faults.backward_times:
        click.echo(f"fault    {index}: earlier than the entry before it")
    for index in faults.future_times:
        click.echo(f"fault    {index}: in the future")


def _verify_proof(path: Path, trust: Trust, old: Checkpoint | None, as_json: bool) -> None:
    from tritium.errors import GateError
    from tritium.receipts.log_proof import check_consistency, parse_proof, read_proof_text
    from tritium.receipts.strict_json import loads

    text = read_proof_text(path)
    if text.startswith("old "):
        if old is None:
            raise click.UsageError(f"{path} proves that a log continues an older checkpoint; give it with --since")
        new = check_consistency(text, old, trust, str(path))
        facts: dict[str, object] = {
            "origin": new.origin,
            "size": new.size,
            "root": new.root.hex(),
            "continues": old.size,
        }
        line = f"{new.origin}: the log of {new.size} entries begins with that of {old.size}"
    else:
        proof, _ = parse_proof(text, trust, str(path))
        if not proof.holds():
            raise GateError("the entry is not in the tree", where=str(path), got=f"entry {proof.index}")
        new = proof.checkpoint
        if old is not None:
            raise click.UsageError("--since needs the log, or a proof from tritium log prove --since")
        facts = {"origin": new.origin, "size": new.size, "index": proof.index, "entry": loads(proof.entry)}
        line = f"{new.origin}: entry {proof.index} of {new.size} is\n{proof.entry.decode()}"
    if as_json:
        print_json(facts)
    else:
        click.echo(line)


def _emit(proof: str, output: Path | None, as_json: bool) -> None:
    if output is not None:
        output.write_text(proof, encoding="utf-8")
    if as_json:
        print_json({"proof": proof, "output": None if output is None else str(output)})
    elif output is None:
        click.echo(proof, nl=False)
