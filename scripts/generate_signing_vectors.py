"""Write the test vectors of docs/signing.md from fixed keys and times; ``--check`` only compares. Needs the extra "sign"."""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tritium.receipts import ledger
from tritium.receipts.dsse import PAYLOAD_TYPE, pae, sign_payload
from tritium.receipts.log_proof import encode_consistency, encode_proof
from tritium.receipts.log_records import Intent, ids_sha256, result_of
from tritium.receipts.merkle import leaf_hash
from tritium.receipts.notes import Checkpoint, verifier_key
from tritium.receipts.sign import private_key_from_seed
from tritium.receipts.statement import (
    IntentReference,
    parse_receipt_statement,
    receipt_id,
    receipt_statement,
    result_statement,
)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "signing.md"
START, END = "<!-- vectors: scripts/generate_signing_vectors.py -->\n", "<!-- end of vectors -->\n"
ORIGIN = "log.example/runs"
MOMENT = datetime(2026, 1, 31, 12, tzinfo=UTC)
NONCE = "Tz5cP0yTLuM"
RUNNER = private_key_from_seed(bytes(range(32)))
LOG = private_key_from_seed(bytes(range(32, 64)))


def block(title: str, text: str, kind: str = "text") -> str:
    """One titled block of code."""
    return f"{title}\n\n```{kind}\n{text.rstrip()}\n```\n"


def keys() -> str:
    """Both keys in all their forms."""
    lines = [
        f"runner seed        {bytes(range(32)).hex()}",
        f"runner public key  {RUNNER.public.raw.hex()}",
        f"runner key id      {RUNNER.public.id}",
        f"log seed           {bytes(range(32, 64)).hex()}",
        f"log public key     {LOG.public.raw.hex()}",
        f"log key id         {LOG.public.id}",
        f"log verifier key   {verifier_key(ORIGIN, LOG.public)}",
    ]
    return block("Keys (RFC 8032 seeds):", "\n".join(lines)) + "\n" + block("The runner's PEM:", RUNNER.public.to_pem())


def vectors(folder: Path) -> str:
    """All vectors: a run announced, signed, registered, proven."""
    prompt = ids_sha256([1, 2, 3])
    receipt = {
        "schema_version": "1.0.0",
        "deterministic": True,
        "model": {"sha256": "5a" * 32},
        "evidence": {
            "run": {
                "prompt_sha256": prompt,
                "sampling": {"temperature": 1.0},
                "token_ns": [1000, 2500, 4100, 5600, 7000],
            }
        },
    }
    history: list[Checkpoint] = [ledger.create_log(folder, ORIGIN, LOG)]
    intent = Intent("5a" * 32, prompt, RUNNER.public.id, NONCE, MOMENT)
    history.append(ledger.append(folder, [intent.to_entry()], LOG))
    reference = IntentReference(ORIGIN, 0, leaf_hash(intent.to_entry()).hex())
    payload = receipt_statement(receipt, MOMENT + timedelta(minutes=1), nonce=NONCE, intent=reference)
    envelope = sign_payload(payload, [RUNNER])
    result = result_of(envelope, parse_receipt_statement(payload), MOMENT + timedelta(minutes=2))
    history.append(ledger.append(folder, [result.to_entry()], LOG))
    history.append(ledger.append(folder, [intent.to_entry().replace(b"12:00", b"12:05")], LOG))
    roots = "\n".join(f"{each.size}  {each.root.hex()}" for each in history)
    message = pae(PAYLOAD_TYPE, payload)
    verdict = result_statement(receipt, "accepted", {"speed": "E3"}, "00" * 32, MOMENT + timedelta(minutes=3))
    consistency = ledger.prove_consistency(folder, history[2], history[3])
    return "\n".join(
        [
            keys(),
            block("Ids 1, 2, 3 as little-endian 32-bit integers, SHA-256:", prompt),
            block("A receipt, not yet canonical:", json.dumps(receipt), "json"),
            block("Its id:", receipt_id(receipt)),
            block("Its statement, announced as entry 0 below:", payload.decode(), "json"),
            block("What is signed begins with:", message[:60].decode() + " …"),
            block("The signature, as hex:", envelope.signatures[0].value.hex()),
            block("SHA-256 of the envelope, which ends in one newline:", envelope.sha256),
            block("Entry 0, the announcement, and its leaf hash:", f"{intent.to_entry().decode()}\n{reference.leaf}"),
            block(
                "Entry 1, the registration, and its leaf hash:",
                f"{result.to_entry().decode()}\n{leaf_hash(result.to_entry()).hex()}",
            ),
            block("Roots by size (entry 2 announces again, at 12:05):", roots),
            block("The checkpoint of size 3:", history[3].text),
            block("The proof of entry 1:", encode_proof(ledger.prove_inclusion(folder, history[3], 1))),
            block("That size 3 continues size 2:", encode_consistency(2, consistency, history[3])),
            block("A verdict's statement:", verdict.decode(), "json"),
        ]
    )


def main() -> int:
    """Write or compare; 1 if the page is stale."""
    before = PAGE.read_text(encoding="utf-8")
    head, _, rest = before.partition(START)
    _, _, tail = rest.partition(END)
    with tempfile.TemporaryDirectory() as folder:
        after = f"{head}{START}\n{vectors(Path(folder))}\n{END}{tail}"
    if "--check" in sys.argv[1:]:
        if after != before:
            print(f"{PAGE.name} is stale: run python scripts/{Path(__file__).name}", file=sys.stderr)
        return int(after != before)
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
