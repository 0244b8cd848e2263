"""What verify-receipt takes to judge a signed receipt: keys, demands, a log; and how the verdict is signed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tritium.gates import Check, LogEvidence, Policy, Verdict
    from tritium.gates._check import Status
    from tritium.receipts.keys import Trust

_path = click.Path(path_type=Path)
OPTIONS = (
    click.option("--trust", "trust_path", type=_path, metavar="FILE", help="For a signed receipt: the keys to trust."),
    click.option("--nonce", help="With --trust: the nonce that the run was asked for with."),
    click.option("--commit", help="With --trust: the source commit that must have run, without changes of its own."),
    click.option("--max-age", type=click.FloatRange(0), metavar="HOURS", help="With --trust: refuse older signatures."),
    click.option("--log", "log_path", type=_path, metavar="FOLDER", help="With --trust: the log, read whole."),
    click.option("--proof", "proofs", type=_path, multiple=True, help="With --trust: a proof from the log; may be given again."),
    click.option("--since", type=_path, metavar="CHECKPOINT", help="With --log: an older checkpoint that it has to continue."),
    click.option("--sign-verdict", "verdict_key", type=_path, metavar="KEY", help="Sign the verdict; goes with --output."),
    click.option("-o", "--output", type=_path, help="Write the signed verdict here."),
)  # fmt: skip


def binding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which hands them on as ``Binding(**options)``."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Binding:
    """The options as given. Errors: UsageError for options that do not go together."""

    trust_path: Path | None
    nonce: str | None
    commit: str | None
    max_age: float | None
    log_path: Path | None
    proofs: tuple[Path, ...]
    since: Path | None
    verdict_key: Path | None
    output: Path | None

    def __post_init__(self) -> None:
        """Refuse options that would do nothing."""
        demands = (self.nonce, self.commit, self.max_age, self.log_path, self.proofs or None)
        if self.trust_path is None and any(each is not None for each in demands):
            raise click.UsageError("--nonce, --commit, --max-age, --log and --proof need --trust")
        if self.since is not None and self.log_path is None:
            raise click.UsageError("--since needs --log")
        if (self.verdict_key is None) != (self.output is None):
            raise click.UsageError("--sign-verdict and --output go together")

    def judge(
        self, data: bytes, policy: Policy, required: Mapping[str, str], *, gpu_required: bool, replayed: list[Check]
    ) -> Verdict:
        """Judge a receipt, signed or not. Errors: UsageError for a signed one without keys to trust."""
        from tritium.gates import Demands, judge, judge_signed

        if not _is_signed(data):
            return judge(
                data, policy, required=required, gpu_required=gpu_required, binding=[*self._unsigned(), *replayed]
            )
        if self.trust_path is None:
            raise click.UsageError("a signed receipt is judged by the keys that you trust: give --trust FILE")
        from tritium.receipts.keys import read_trust

        trust = read_trust(self.trust_path)
        demands = Demands(self.nonce, self.commit, None if self.max_age is None else timedelta(hours=self.max_age))
        return judge_signed(
            data,
            trust,
            policy,
            demands=demands,
            log=self._log(data, trust),
            required=required,
            gpu_required=gpu_required,
            replayed=replayed,
        )

    def _unsigned(self) -> list[Check]:
        """A bare receipt where a signed one was looked for: refused if it had to answer something, else in doubt."""
        from tritium.gates import Check

        if self.trust_path is None:
            return []
        is_demanded = any(each is not None for each in (self.nonce, self.commit, self.max_age))
        status: Status = "FAIL" if is_demanded else "INCONCLUSIVE"
        return [Check("signature", "E4", status, "none", "a signature", "The receipt is not signed: tritium sign")]

    def sign(self, data: bytes, verdict: Verdict) -> None:
        """Write the verdict of a receipt as a signed Simple Verification Result, if that was asked for.

        Errors: UsageError if the receipt cannot be read, so that a signature would be about nothing; OSError.
        """
        if self.verdict_key is None or self.output is None:
            return
        from tritium.errors import FormatError
        from tritium.receipts.dsse import sign_payload
        from tritium.receipts.sign import read_private_key
        from tritium.receipts.statement import result_statement

        key = read_private_key(self.verdict_key)
        try:
            receipt = receipt_in(data)
        except FormatError as error:
            raise click.UsageError(f"no verdict is signed about what is no receipt: {error}") from None
        levels = {claim.name: claim.level for claim in verdict.claims if claim.level is not None}
        statement = result_statement(receipt, verdict.word, levels, verdict.policy_sha256, datetime.now(UTC))
        self.output.write_bytes(sign_payload(statement, [key]).to_bytes())

    def _log(self, data: bytes, trust: Trust) -> LogEvidence:
        """What the options say of a log: proofs as given, or made from the whole log."""
        from tritium.gates import LogEvidence

        texts = {"result": None, "intent": None, **_sorted_proofs(self.proofs)}
        if self.log_path is None:
            return LogEvidence(texts["result"], texts["intent"])
        from tritium.receipts.ledger import prove_inclusion, read_checkpoint, read_note, verify_log
        from tritium.receipts.log_proof import encode_proof

        checkpoint = read_checkpoint(self.log_path, trust)
        entries = tuple(verify_log(self.log_path, checkpoint))
        for kind, index in _places(data, entries).items():
            texts[kind] = texts[kind] or encode_proof(prove_inclusion(self.log_path, checkpoint, index))
        since = None if self.since is None else read_note(self.since)
        return LogEvidence(texts["result"], texts["intent"], checkpoint.text, entries, since)


def receipt_in(data: bytes) -> dict[str, Any]:
    """The receipt, taken out of its envelope where it has one; no signature is checked. Errors: FormatError."""
    from tritium.receipts.dsse import parse_envelope
    from tritium.receipts.statement import parse_receipt_statement
    from tritium.receipts.strict_json import loads

    if _is_signed(data):
        return dict(parse_receipt_statement(parse_envelope(data, "receipt").payload).receipt)
    value: dict[str, Any] = loads(data)
    return value


def _is_signed(data: bytes) -> bool:
    from tritium.errors import FormatError
    from tritium.receipts.dsse import is_envelope
    from tritium.receipts.strict_json import loads

    try:
        return is_envelope(loads(data))
    except FormatError:
        return False


def _sorted_proofs(paths: tuple[Path, ...]) -> dict[str, str | None]:
    """The proofs by the kind of their entries; what they prove is for the judge to see."""
    from tritium.receipts.log_proof import read_proof_text, split_proof
    from tritium.receipts.log_records import Intent, parse_entry

    found: dict[str, str | None] = {}
    for path in paths:
        text = read_proof_text(path)
        kind = "intent" if isinstance(parse_entry(split_proof(text, str(path))[0], str(path)), Intent) else "result"
        if kind in found:
            raise click.UsageError(f"{path}: a second proof of {'an' if kind == 'intent' else 'a'} {kind}")
        found[kind] = text
    return found


def _places(data: bytes, entries: tuple[bytes, ...]) -> dict[str, int]:
    """Where a log holds the receipt's registration and announcement, as far as it does."""
    from tritium.errors import FormatError
    from tritium.receipts.dsse import parse_envelope
    from tritium.receipts.log_records import Result, parse_entry
    from tritium.receipts.statement import parse_receipt_statement

    places: dict[str, int] = {}
    try:
        envelope = parse_envelope(data, "receipt")
        signed = parse_receipt_statement(envelope.payload)
        if signed.intent is not None and signed.intent.index < len(entries):
            places["intent"] = signed.intent.index
        for index, entry in enumerate(entries):
            record = parse_entry(entry, f"entry {index}")
            if isinstance(record, Result) and record.envelope_sha256 == envelope.sha256:
                places["result"] = index
                break
    except FormatError:
        pass  # the judge says what is wrong with it
    return places
