"""Challenges: a verifier asks for what nobody could have prepared, a runner answers, the verifier checks. Levels E5a and E6.

Two kinds, both JSON: "open" names positions and layers of a trace that a receipt has committed to; "run" names a random prompt
to be continued at once. The answer to the first is an npz archive of arrays, to the second a receipt of the run that bears the
challenge's nonce.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import zipfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritium import numerics
from tritium.engine.kv import blocks_for
from tritium.engine.sampling import Sampler
from tritium.errors import FormatError, GateError, TritiumError, UnsupportedError
from tritium.evidence.opening import Check as OpeningCheck
from tritium.evidence.opening import Weights, logits_of, show
from tritium.evidence.replay import LEVEL, find_model, loaded, sampling_of
from tritium.evidence.trace import DIGEST, note_rows, trace_leaves, trace_root
from tritium.formats.gguf import open_gguf
from tritium.gates import Check, check
from tritium.models import build_graph
from tritium.receipts import jcs, strict_json
from tritium.types import Batch, StepResult

FORMAT = "tritium-challenge-1"
MAX_ANSWER = 1 << 31
_FIELDS = {
    "open": {"format", "kind", "nonce", "issued_ns", "receipt", "root", "positions", "layers"},
    "run": {"format", "kind", "nonce", "issued_ns", "model_sha256", "prompt_ids", "max_tokens"},
}

Arrays = Mapping[str, NDArray[Any]]


def ask_openings(receipt: Mapping[str, Any], issued_ns: int, n_positions: int, n_layers: int) -> dict[str, Any]:
    """A challenge to open random positions of a receipt's trace, and attention in random layers of each.

    Errors: UnsupportedError for a receipt without a trace of all its positions.
    """
    evidence = receipt.get("evidence")
    said = None if evidence is None else evidence["trace"]
    if evidence is None or said is None or said["first"]:
        got = "none" if said is None else f"one from position {said['first']} on"
        raise UnsupportedError(
            "openings", expected="a trace of all positions", got=got, hint="Run without a prefix cache"
        )
    if "batch" in evidence:
        raise UnsupportedError("openings", expected="one sequence", got=f"{evidence['batch']['n_sequences']} together",
                               hint="A batch is replayed: verify-receipt --replay")  # fmt: skip
    source = secrets.SystemRandom()
    positions = sorted(source.sample(range(said["n_leaves"]), min(n_positions, said["n_leaves"])))
    depth = evidence["model"]["config"]["n_layers"]
    return {
        **_head("open", issued_ns),
        "receipt": jcs.digest(receipt),
        "root": said["root"],
        "positions": positions,
        "layers": [sorted(source.sample(range(depth), min(n_layers, depth))) for _ in positions],
    }


def ask_run(model_sha256: str, vocab_size: int, issued_ns: int, n_prompt: int, max_tokens: int) -> dict[str, Any]:
    """A challenge to continue a random prompt greedily."""
    prompt = [secrets.randbelow(vocab_size) for _ in range(n_prompt)]
    return {**_head("run", issued_ns), "model_sha256": model_sha256, "prompt_ids": prompt, "max_tokens": max_tokens}


def _head(kind: str, issued_ns: int) -> dict[str, Any]:
    return {"format": FORMAT, "kind": kind, "nonce": secrets.token_hex(16), "issued_ns": str(issued_ns)}


def parse(data: bytes, where: str) -> dict[str, Any]:
    """A challenge from its file. Errors: FormatError."""
    value = strict_json.loads(data)
    if (
        not isinstance(value, dict)
        or value.get("format") != FORMAT
        or set(value) != _FIELDS.get(value.get("kind", ""), set())
    ):
        raise FormatError("not a challenge", where=where, expected=FORMAT)
    numbers = [
        *value.get("positions", ()),
        *value.get("prompt_ids", ()),
        *(n for part in value.get("layers", ()) for n in part),
    ]
    if not all(type(n) is int and n >= 0 for n in numbers) or len(value.get("layers", ())) != len(
        value.get("positions", ())
    ):
        raise FormatError("not a challenge", where=where, expected="lists of numbers")
    return value


def open_positions(challenge: Mapping[str, Any], receipt: Mapping[str, Any], place: Path) -> bytes:
    """The runner's answer: run the recorded tokens again, keeping rows, and show what was asked for.

    Errors: GateError for a challenge about another receipt, or a run that does not come out as recorded.
    """
    if challenge["receipt"] != jcs.digest(receipt):
        raise GateError(
            "the challenge is about another receipt", expected=challenge["receipt"], got=jcs.digest(receipt)
        )
    evidence = receipt["evidence"]
    ids = np.array([*evidence["run"]["prompt_ids"], *evidence["run"]["token_ids"]], np.int32)
    positions = challenge["positions"]
    columns: dict[int, bytes] = {}
    hidden: dict[int, bytes] = {}
    kept = []
    with loaded(evidence, place, "native") as model:
        size = min(model.plan.max_tokens, model.plan.max_outputs)
        for start in range(0, len(ids) - 1, size):
            end = min(start + size, len(ids) - 1)
            result: StepResult = model.engine.executor.step(_every_output(ids, start, end), "rows")
            assert result.columns is not None
            assert result.hidden is not None
            assert result.rows is not None
            note_rows(columns, start, result.columns.tobytes())
            note_rows(hidden, start, result.hidden.tobytes())
            if start <= max(positions):
                kept.append(result.rows)
        rows = np.concatenate(kept)
        arrays: dict[str, Any] = {"columns": _table(columns), "hidden": _table(hidden)}
        weights = Weights(model.file)
        for position, layers in zip(positions, challenge["layers"], strict=True):
            arrays.update(show(model.graph, weights, rows, position, layers))
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _table(digests: Mapping[int, bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests[i] for i in range(len(digests))), np.uint8).reshape(-1, DIGEST)


def _every_output(ids: NDArray[np.int32], start: int, end: int) -> Batch:
    n = end - start
    return Batch(
        tokens=np.ascontiguousarray(ids[start:end]),
        positions=np.arange(start, end, dtype=np.int32),
        slots=np.zeros(n, np.int32),
        block_tables=np.arange(blocks_for(len(ids)), dtype=np.int32).reshape(1, -1),
        outputs=np.arange(n, dtype=np.int32),
        top_k=1,
    )


def read_answer(data: bytes, where: str) -> Arrays:
    """The arrays of an answer. Errors: FormatError for what is no archive of plain arrays, or too large."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_ANSWER:
            raise FormatError("answer", where=where, expected=f"at most {MAX_ANSWER} bytes", got=size)
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise FormatError("not an answer", where=where, expected="an npz archive of arrays", got=str(error)) from None


def opening_checks(
    challenge: Mapping[str, Any], answer: Arrays, receipt: Mapping[str, Any], path: Path | None
) -> list[Check]:
    """Check an answer to a challenge of openings: the root, then each position. Errors: OSError, FormatError of the model."""
    evidence = receipt["evidence"]
    if challenge["receipt"] != jcs.digest(receipt) or challenge["root"] != evidence["trace"]["root"]:
        return [
            check(
                "challenge", LEVEL, False, jcs.digest(receipt), challenge["receipt"], "An answer about another receipt"
            )
        ]
    wanted = evidence["model"]["sha256"]
    place = find_model(wanted, path)
    if place is None:
        return [
            check("opening_model", LEVEL, None, "another model", wanted, "Give the model of this hash: --model PATH")
        ]
    checks = [check("challenge", LEVEL, True)]
    n_leaves = evidence["trace"]["n_leaves"]
    columns, hidden = (_digests(answer, name, n_leaves) for name in ("columns", "hidden"))
    run, said = evidence["run"], evidence["trace"]
    ids = [*run["prompt_ids"], *run["token_ids"]]
    leaves = trace_leaves(bytes.fromhex(said["run"]), said["nonce"], ids, 0, len(run["prompt_ids"]), columns, hidden)
    root = trace_root(leaves).hex() if leaves else None
    hint = "What was handed out is not what the receipt committed to"
    checks.append(check("opening_root", LEVEL, root == said["root"], root, said["root"], hint))
    if root != said["root"]:
        return checks
    found: str | None = None
    with closing(open_gguf(place)) as file:
        try:
            _check_positions(challenge, answer, evidence, columns, hidden, file)
        except (GateError, TritiumError) as error:
            found = str(error)
    n = len(challenge["positions"])
    told = f"E5a: {n} of {n_leaves} positions opened" if found is None else found
    return [*checks, check("openings", LEVEL, found is None, told, f"{n} positions", "The run did not compute this")]


def _digests(answer: Arrays, name: str, n: int) -> dict[int, bytes]:
    """Digests by position; none where the answer has no such table, so that no root comes of it."""
    table = answer.get(name)
    if table is None or table.dtype != np.uint8 or table.shape != (n, DIGEST):
        return {}
    return {i: row.tobytes() for i, row in enumerate(table)}


def _check_positions(
    challenge: Mapping[str, Any], answer: Arrays, evidence: Mapping[str, Any], columns: Mapping[int, bytes],
    hidden: Mapping[int, bytes], file: Any,
) -> None:  # fmt: skip
    """Errors: GateError, NumericsError: what a position does not lead to."""
    graph = build_graph(file)
    weights, c = Weights(file), graph.config
    run = evidence["run"]
    ids = [*run["prompt_ids"], *run["token_ids"]]
    n_prompt = len(run["prompt_ids"])
    rope = numerics.rope_tables(len(ids), c.head_dim, c.rope_theta, c.rope_factors)
    following = OpeningCheck(graph, weights, answer, columns, rope)
    for position, layers in zip(challenge["positions"], challenge["layers"], strict=True):
        if ids[position] >= c.vocab_size:
            raise GateError("token id", expected=f"below {c.vocab_size}", got=ids[position])
        row = following.position(position, ids[position], layers)
        if position < n_prompt - 1:
            continue
        if hashlib.sha256(row.tobytes()).digest() != hidden[position]:
            raise GateError("the row that the head multiplied is another", where=f"position {position}")
        sampler = Sampler(sampling_of(evidence), c.vocab_size, np.array(ids[:n_prompt], np.int32))
        for token in ids[n_prompt : position + 1]:
            sampler.remember(token)
        token, _ = sampler.choose(StepResult(logits=logits_of(graph, weights, row)), 0, position + 1)
        if token != ids[position + 1]:
            raise GateError(
                "another token was chosen", where=f"position {position}", expected=token, got=ids[position + 1]
            )


def clock_checks(
    challenge: Mapping[str, Any], receipt: Mapping[str, Any], elapsed_ns: int, least_share: float
) -> list[Check]:
    """Check that a receipt answers a challenge to run, and that its times fit into the verifier's: level E6.

    ``elapsed_ns`` is from the challenge to its answer, on the verifier's clock; ``least_share`` the policy's.
    """
    evidence = receipt.get("evidence")
    if evidence is None or evidence["trace"] is None:
        return [
            check(
                "challenge", LEVEL, False, "none", "a trace with the nonce", "The answer is no receipt of a traced run"
            )
        ]
    run = evidence["run"]
    asked = (challenge["nonce"], challenge["prompt_ids"], challenge["max_tokens"], challenge["model_sha256"])
    told = (evidence["trace"]["nonce"], run["prompt_ids"], run["max_tokens"], evidence["model"]["sha256"])
    checks = [
        check("challenge", LEVEL, asked == told, str(told)[:120], str(asked)[:120], "An answer to another question")
    ]
    share = run["wall_ns"] / max(elapsed_ns, 1)
    speed = f"at least {len(run['token_ids']) / elapsed_ns * 1e9:.4g} tok/s, prompt included, on the verifier's clock"
    if share > 1:
        checks.append(
            check("verifier_clock", "E6", False, run["wall_ns"], elapsed_ns, "The run took longer than the answer")
        )
    else:
        enough = True if share >= least_share else None
        hint = "Most of the time was not the run: ask for more tokens"
        checks.append(check("verifier_clock", "E6", enough, speed if enough else round(share, 3), least_share, hint))
    return checks
