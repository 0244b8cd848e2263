"""E3: executed and skipped work equals the architecture's, to the last multiply-accumulate."""

from __future__ import annotations

from collections.abc import Iterator

from tritium.gates._check import Check, check
from tritium.gates._facts import ATTENTION, HEAD, LINEAR, SCREENED_HEAD, Facts, StepWork
from tritium.gates._policy import Policy
from tritium.gates.identity import matrices
from tritium.receipts import registry

NAMES = (
    "positions", "calls", "coverage", "body_macs", "skipped_macs", "attention_macs", "head_macs", "quantized_fraction",
)  # fmt: skip
SKIPPABLE = {"zero_gate": "ffn_up", "zero_code": "ffn_down"}
"""Reason → the matrix whose work it makes needless."""
GATED_BY_RELU = ("bitnet-b1.58", "bitnet-25")
"""Architectures whose gates close."""
MAX_CANDIDATES = 1024


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """T = n_prompt − n_cached + n_gen − 1 positions a sequence, Σ out·in·T, attention over Σ (pos + 1), the head's rows."""
    if facts.evidence is None:
        yield from (check(name, "E3", None, hint="No ledger: strings prove nothing") for name in NAMES)
        return
    yield _positions(facts)
    yield _calls(facts)
    yield _coverage(facts)
    yield _body(facts)
    yield _skips(facts)
    yield _attention(facts)
    yield _head(facts)
    yield _quantized(facts, policy)


def _positions(facts: Facts) -> Check:
    run = facts.run
    expected = sum(s["n_prompt"] - s["n_cached"] + len(s["token_ids"]) - 1 for s in facts.sequences)
    got = facts.n_forwarded
    if not (got == expected == facts.ledger["n_tokens"]):
        return check("positions", "E3", False, f"{got} forwarded, {facts.ledger['n_tokens']} counted", expected,
                     "prompt − reused + generated − 1 positions are forwarded, of each sequence")  # fmt: skip
    at = [s["n_cached"] for s in facts.sequences]
    for i, (p, parts) in enumerate(zip(run["passes"], facts.passes, strict=True)):
        for part in parts:
            if part.position != at[part.sequence]:
                return check("positions", "E3", False, part.position, at[part.sequence],
                             f"pass {i} does not go on where the last one ended")  # fmt: skip
            at[part.sequence] += part.n_tokens
        # Logits are computed once the known tokens are all forwarded.
        due = sum(part.is_due for part in parts)
        if p["n_outputs"] != due:
            return check("positions", "E3", False, p["n_outputs"], due, f"rows of logits of pass {i}")
    ends = [s["n_prompt"] + len(s["token_ids"]) - 1 for s in facts.sequences]
    if at != ends:
        return check("positions", "E3", False, str(at[:4]), str(ends[:4]), "Sequences end where others do")
    good = facts.ledger["n_steps"] == len(run["passes"])
    return check(
        "positions", "E3", good, facts.ledger["n_steps"], len(run["passes"]), "The executor counted other passes"
    )


def _calls(facts: Facts) -> Check:
    """Every step ran in every pass: those of the head in every pass with logits."""
    passes = len(facts.run["passes"])
    with_logits = sum(1 for p in facts.run["passes"] if p["n_outputs"])
    calls: dict[tuple[int, str, str], int] = {}
    for s in facts.steps:
        calls[s.block, s.label, s.op] = calls.get((s.block, s.label, s.op), 0) + s.calls
    screened = any(op in SCREENED_HEAD for _, _, op in calls)
    for (block, label, op), n in calls.items():
        if screened and op in (HEAD, "select", "tail", *SCREENED_HEAD):
            # A pass takes one of two ways to its logits, or to candidates among them.
            if n > with_logits:
                return check("calls", "E3", False, n, with_logits, f"{block}.{label}: a step runs once a pass")
            continue
        is_head = op in (HEAD, "select", "output_rows") or label == "output_norm"
        expected = with_logits if is_head else passes
        # Steps of one name may be several, but those that multiply by matrices are one each.
        fits = n == expected if op in (LINEAR, ATTENTION, HEAD) else n > 0 and n % expected == 0
        if not fits:
            return check("calls", "E3", False, n, expected, f"{block}.{label}: a step runs once a pass")
    gemv = sum(1 for p in facts.run["passes"] if p["n_tokens"] == 1)
    for s in facts.steps:
        if "_gemv_" in s.kernel and s.calls != gemv:
            return check("calls", "E3", False, s.calls, gemv, f"{s.kernel}: it runs in passes of one token")
    return check("calls", "E3", True)


def _coverage(facts: Facts) -> Check:
    """Each matrix of the layers is multiplied by one step, and no step by others."""
    used: dict[str, str] = {}
    for s in facts.steps:
        if s.op != LINEAR:
            continue
        for name in matrices(s.block, s.label):
            if used.setdefault(name, s.label) != s.label:
                return check("coverage", "E3", False, name, "one step", "Two steps multiply by one matrix")
    expected = {n for n, shape in facts.shapes.items() if len(shape) == 2 and n.startswith("blk.")}
    missing, extra = sorted(expected - set(used)), sorted(set(used) - expected)
    odd = _odd_step(facts)
    if odd is not None:
        return check("coverage", "E3", False, odd, "equal layers, steps named by weights or op", "A strange step")
    per_layer = {s.block for s in facts.steps if s.op == ATTENTION}
    missing += [f"attention of layer {i}" for i in range(facts.config["n_layers"]) if i not in per_layer]
    return check("coverage", "E3", not missing and not extra, ", ".join((missing or extra)[:3]) or None,
                 "every matrix of the model", "Left out" if missing else "Not in the model")  # fmt: skip


def _odd_step(facts: Facts) -> str | None:
    """A step that is named neither by tensors nor by its op, or that another layer lacks."""
    layers: dict[int, set[tuple[str, str]]] = {}
    for s in facts.steps:
        is_named = all(name in facts.shapes for name in matrices(s.block, s.label)) or s.label == s.op
        if not is_named:
            return f"{s.block}.{s.label}"
        if s.block >= 0:
            layers.setdefault(s.block, set()).add((s.op, s.label))
    first = layers.get(0, set())
    return next((f"layer {i}: {min(steps ^ first)[1]}" for i, steps in layers.items() if steps != first), None)


def _body(facts: Facts) -> Check:
    positions = facts.n_forwarded
    groups: dict[tuple[int, str], list[StepWork]] = {}
    for s in facts.steps:
        if s.op == LINEAR:
            groups.setdefault((s.block, s.label), []).append(s)
    for (block, label), rows in groups.items():
        sizes = [facts.shapes.get(name, [0, 0]) for name in matrices(rows[0].block, rows[0].label)]
        expected = sum(s[0] * s[-1] for s in sizes) * positions
        got = sum(r.macs + r.macs_skipped for r in rows)
        if got != expected:
            return check("body_macs", "E3", False, got, expected, f"{block}.{label}: Σ out·in·T, executed and skipped")
        wrong = next((why for r in rows if (why := _skip_fault(facts, r))), None)
        if wrong is not None:
            return check("body_macs", "E3", False, f"{block}.{label}", "no skipped work", wrong)
    total = sum(s.macs + s.macs_skipped for s in facts.steps if s.op == LINEAR)
    single = sum(p["n_tokens"] for p in facts.run["passes"] if p["n_tokens"] == 1)
    for rows in groups.values():
        for r in rows:
            work = (r.macs + r.macs_skipped) * positions
            if "_gemv_" in r.kernel and work != sum(q.macs + q.macs_skipped for q in rows) * single:
                return check("body_macs", "E3", False, r.macs, None, f"{r.kernel}: not the work of its passes")
    return check("body_macs", "E3", total > 0, total, "above 0", "No linear layer was computed")


def _skip_fault(facts: Facts, s: StepWork) -> str | None:
    """Why a step cannot have skipped what it says."""
    reason = registry.skip_reason(s.kernel)
    if reason is None:
        return "Only a gate can make work of a layer needless" if s.macs_skipped else None
    if s.label != SKIPPABLE[reason] or facts.config["architecture"] not in GATED_BY_RELU:
        return "Only a gate can make work of a layer needless"
    n, k = facts.shapes.get(matrices(s.block, s.label)[0], [1, 1])
    whole = k if reason == "zero_gate" else n
    return "Rows and columns are skipped whole" if s.macs % whole or s.macs_skipped % whole else None


def _skips(facts: Facts) -> Check:
    """Skipped work by reason is what the steps add up to; where a gate is closed a code is zero."""
    found = dict.fromkeys(SKIPPABLE, 0)
    rows: dict[int, int] = {}
    columns: dict[int, int] = {}
    for s in facts.steps:
        reason = registry.skip_reason(s.kernel)
        if reason is None:
            continue
        found[reason] += s.macs_skipped
        n, k = facts.shapes.get(matrices(s.block, s.label)[0], [1, 1])
        skipped, whole = (rows, k) if reason == "zero_gate" else (columns, n)
        skipped[s.block] = skipped.get(s.block, 0) + s.macs_skipped // whole
    for block, n_columns in columns.items():
        if n_columns < rows.get(block, 0):
            return check("skipped_macs", "E3", False, n_columns, f"at least {rows[block]}",
                         f"layer {block}: the code behind a closed gate is zero")  # fmt: skip
    said = facts.ledger.get("macs_skipped_by_reason", dict.fromkeys(SKIPPABLE, 0))
    return check("skipped_macs", "E3", said == found, str(dict(said)), str(found), "Not what the steps skipped")


def _attention(facts: Facts) -> Check:
    c = facts.config
    expected = 2 * c["n_heads"] * c["head_dim"] * facts.n_seen
    rows = [s for s in facts.steps if s.op == ATTENTION]
    wrong = next((s for s in rows if s.macs + s.macs_skipped != expected), None)
    if wrong is not None:
        return check("attention_macs", "E3", False, wrong.macs + wrong.macs_skipped, expected,
                     f"layer {wrong.block}: 2·n_heads·head_dim·Σ(pos + 1)")  # fmt: skip
    stray = next(
        (
            s
            for s in facts.steps
            if s.op not in (LINEAR, ATTENTION, HEAD, *SCREENED_HEAD) and (s.macs or s.macs_skipped)
        ),
        None,
    )
    if stray is not None:
        return check("attention_macs", "E3", False, stray.macs, 0, f"{stray.label}: it multiplies no matrix")
    return check("attention_macs", "E3", len(rows) == c["n_layers"], len(rows), c["n_layers"], "One attention a layer")


def _head(facts: Facts) -> Check:
    rows, c = facts.ledger["head_rows"], facts.config
    expected = facts.n_outputs * c["vocab_size"]
    got = rows["full"] + rows["screened"]
    # An output whose candidates do not decide a draw is scored in full as well.
    if max(rows["full"], rows["screened"]) > expected or got < expected or rows["rescored"] > rows["screened"]:
        return check("head_macs", "E3", False, f"{rows['full']} full, {rows['screened']} screened", expected,
                     "Each output scores every row of the vocabulary, in full or screened")  # fmt: skip
    width = c["d_model"]
    found = {op: sum(s.macs for s in facts.steps if s.op == op) for op in (HEAD, *SCREENED_HEAD)}
    spared = {op: sum(s.macs_skipped for s in facts.steps if s.op == op) for op in (HEAD, *SCREENED_HEAD)}
    bounded = found["screen"]
    # Bounds are drawn for whole rows of logits, where the hidden state has them.
    if bounded % (c["vocab_size"] * width) or bounded > rows["screened"] * width:
        return check("head_macs", "E3", False, bounded, rows["screened"] * width, "The plane's share: rows · d_model")
    if found["refine"] + spared["refine"] != bounded:
        return check("head_macs", "E3", False, found["refine"], bounded, "Better bounds for rows that have bounds")
    most = MAX_CANDIDATES * facts.n_outputs * width
    if found["threshold"] > most or found["threshold"] % width:
        return check("head_macs", "E3", False, found["threshold"], most, "At most as many rows set a threshold")
    if found[HEAD] != rows["full"] * width:
        return check("head_macs", "E3", False, found[HEAD], rows["full"] * width, "rows · d_model, in full")
    macs = found[HEAD] + found["rescore"] + spared["rescore"]
    bound = (rows["full"] + rows["screened"]) * width
    if found["rescore"] != rows["rescored"] * width:
        return check("head_macs", "E3", False, found["rescore"], rows["rescored"] * width, "rows · d_model, rescored")
    return check("head_macs", "E3", macs == bound, macs, bound, "rows · d_model, full, rescored and ruled out")


def _quantized(facts: Facts, policy: Policy) -> Check:
    body = quantized = 0
    for s in facts.steps:
        if s.op == LINEAR:
            entry = registry.find(s.kernel)
            work = s.macs + s.macs_skipped
            body += work
            quantized += work if entry is not None and entry.kind in ("quantized", "gpu") else 0
    q = quantized / body if body else 0.0
    said = facts.ledger["quantized_fraction"]
    if abs(said - q) > 1e-6:
        return check("quantized_fraction", "E3", False, said, q, "Not what the ledger adds up to")
    if q >= policy.get("accounting", "quantized"):
        return check("quantized_fraction", "E3", True, q)
    claim = str(facts.data.get("model_quantization") or facts.data.get("quantization") or "")
    hybrid = policy.get("accounting", "hybrid")
    if q >= hybrid:
        full = policy.get("accounting", "quantized")
        return check("quantized_fraction", "E3", "hybrid" in claim.lower(), q, f"at least {full}",
                     "Part of the body was not quantized: the receipt must say hybrid")  # fmt: skip
    return check("quantized_fraction", "E3", False, q, f"at least {hybrid}", "The body was not computed quantized")
