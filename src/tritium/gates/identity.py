"""E1: one model, told everywhere the same: its hash, its tensors, its shapes, and how they lie in memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tritium.gates._check import Check, check, not_applicable
from tritium.gates._facts import SCREENED_HEAD, Facts
from tritium.gates._policy import Policy
from tritium.receipts import jcs, registry

BITS = {
    "f32": 32.0,
    "f16": 16.0,
    "bf16": 16.0,
    "i8": 8.0,
    "q8_0": 8.5,
    "q6_k": 6.5625,
    "tq1_0": 1.6875,
    "tq2_0": 2.0625,
}
I2S_TAIL_BYTES = 32
TERNARY = ("i2_s", "i2_s_64", "i2_s_4row", "tq1_0", "tq2_0", "hf_u8", "tl1", "tl2", "qk256", "q2_0", "pq2_0", "ptq1_0")
PANEL_ROWS, ALIGNMENT = 16, 64
PANELS = {"i2s": (16, 64, 4), "tq1": (80, 256, 4), "i2s_groups": (256, 16 * 64 + 64, 0)}
"""Layouts of panels of 16 rows: columns and bytes of their unit, and bytes of the scale that a panel has behind all units."""
COLUMN_ROWS = 256


def panel_bytes(layout: str, cols: int) -> int:
    """Bytes of a panel of 16 rows without the scale that stands elsewhere."""
    columns, unit, _ = PANELS[layout]
    return -(-cols // columns) * unit


def plane_bytes(rows: int, cols: int) -> tuple[int, int]:
    """What a head's plane44 takes: panels of 16 rows × 8 columns with three floats a row; of 128 columns with four."""
    panels = -(-rows // PANEL_ROWS)
    return panels * (64 * -(-cols // 8) + 12 * PANEL_ROWS), panels * PANEL_ROWS * (64 * -(-cols // 128) + 16)


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """Hashes, sizes, shapes against the architecture, file layouts against layouts in memory."""
    names = ("model_hash", "model_tensors", "model_shapes", "profile")
    if facts.evidence is None:
        yield from (not_applicable(name, "E1", "no evidence") for name in names)
        yield _declared_layout(facts)
        return
    model = facts.model
    yield check("model_hash", "E1", facts.data["model"].get("sha256") == model["sha256"], facts.data["model"].get("sha256"),
                model["sha256"], "The receipt names two models")  # fmt: skip
    yield _tensors(model)
    yield _shapes(facts)
    yield _layouts(facts)
    known = policy.profiles.get(facts.plan["profile"])
    good = None if known is None else known == facts.plan["profile_hash"]
    yield check("profile", "E1", good, f"{facts.plan['profile']} {facts.plan['profile_hash'][:16]}", known,
                "The policy knows no such profile" if known is None else "This name is another's")  # fmt: skip


def _tensors(model: Mapping[str, Any]) -> Check:
    names = [t["name"] for t in model["tensors"]]
    if len(set(names)) != len(names):
        return check("model_tensors", "E1", False, len(names), "each tensor once", "A tensor stands there twice")
    for t in model["tensors"]:
        n = 1
        for size in t["shape"]:
            n *= size
        expected = file_bytes(t["layout"], n)
        if expected is not None and t["nbytes"] != expected:
            return check("model_tensors", "E1", False, t["nbytes"], expected, f"{t['name']}: not the size of its shape")
    total = sum(t["nbytes"] for t in model["tensors"])
    if not total < model["nbytes"] <= total + (1 << 20) + 512 * model["config"]["vocab_size"]:
        return check(
            "model_tensors", "E1", False, model["nbytes"], f"more than {total}", "The file cannot hold its tensors"
        )
    root = jcs.digest(model["tensors"])
    return check("model_tensors", "E1", root == model["tensors_sha256"], model["tensors_sha256"], root,
                 "The list of tensors has another hash")  # fmt: skip


def column_bytes(rows: int) -> int:
    """Bytes of a column of the layout i2s_columns."""
    return -(-rows // COLUMN_ROWS) * 64


def file_bytes(layout: str, n: int) -> int | None:
    """Bytes of n weights in a file's layout, or None for one whose size depends on more."""
    if layout in ("i2_s", "i2_s_64", "i2_s_4row"):
        return n // 4 + I2S_TAIL_BYTES
    return int(n * BITS[layout]) // 8 if layout in BITS else None


def _shapes(facts: Facts) -> Check:
    for name, expected in expected_shapes(facts.config).items():
        got = facts.shapes.get(name)
        if got != expected:
            return check(
                "model_shapes",
                "E1",
                False,
                f"{name} {got}",
                str(expected),
                "The tensors are not those of the architecture",
            )
    known = set(expected_shapes(facts.config))
    extra = [n for n, shape in facts.shapes.items() if len(shape) == 2 and n not in known and n.startswith("blk.")]
    c = facts.config
    good = not extra and c["n_heads"] % c["n_kv_heads"] == 0
    return check("model_shapes", "E1", good, ", ".join(extra[:3]) or f"{c['n_heads']} heads on {c['n_kv_heads']}",
                 "the matrices of the architecture", "A matrix that no layer uses")  # fmt: skip


def expected_shapes(c: Mapping[str, Any]) -> dict[str, list[int]]:
    """Matrices of a decoder: name → (out, in)."""
    q, kv = c["n_heads"] * c["head_dim"], c["n_kv_heads"] * c["head_dim"]
    layer = {
        "attn_q": [q, c["d_model"]], "attn_k": [kv, c["d_model"]], "attn_v": [kv, c["d_model"]],
        "attn_output": [c["d_model"], q], "ffn_gate": [c["d_ff"], c["d_model"]], "ffn_up": [c["d_ff"], c["d_model"]],
        "ffn_down": [c["d_model"], c["d_ff"]],
    }  # fmt: skip
    out = {"token_embd.weight": [c["vocab_size"], c["d_model"]]}
    if not c["tied_head"]:
        out["output.weight"] = [c["vocab_size"], c["d_model"]]
    return out | {f"blk.{i}.{name}.weight": shape for i in range(c["n_layers"]) for name, shape in layer.items()}


def _said_layout(facts: Facts) -> str:
    """Which quantization a receipt says its model has, as letters and digits; empty where it says none."""
    said = facts.data.get("model", {}).get("quantization") or facts.data.get("model_quantization") or ""
    return str(said).lower().replace("_", "")


def _declared_layout(facts: Facts) -> Check:
    """A receipt without evidence may still say which quantization its model has: kernels of another need a repack on record."""
    said = _said_layout(facts)
    layouts = {e.layout for e in map(registry.find, facts.data["kernels"]) if e is not None and e.kind == "quantized"}
    layouts -= {"any", "none", *registry.SKIP_REASONS}
    # Panels of either kind are made of one file.
    if len(layouts) > 1 and not layouts <= set(PANELS):
        return check("layout_map", "E1", False, ", ".join(sorted(layouts)), "one layout of ternary weights",
                     "One model is stored in one way: these kernels are for different files")  # fmt: skip
    if not said:
        return not_applicable("layout_map", "E1", "no layout is told")
    return check("layout_map", "E1", layouts <= {said[:3], said}, ", ".join(sorted(layouts)), said,
                 "The kernels read another layout than the file's, and no repack is recorded")  # fmt: skip


def _layouts(facts: Facts) -> Check:
    """Residents cover the matrices, in layouts that their kernels read, in the bytes that these take."""
    layouts = {t["name"]: t["layout"] for t in facts.model["tensors"]}
    stored = {
        layout.replace("_", "") for layout in (*layouts.values(), *(r["layout"] for r in facts.plan["residents"]))
    }
    said = re.match(r"[a-z]+\d+", _said_layout(facts))
    if said and not any(layout.startswith(said[0]) for layout in stored):
        return check(
            "layout_map", "E1", False, said[0], ", ".join(sorted(stored)), "Neither the file nor memory holds it so"
        )
    resident_of: dict[str, set[str]] = {}
    for r in facts.plan["residents"]:
        for name in r["tensors"]:
            resident_of.setdefault(name, set()).add(r["layout"])
        wrong = _resident_fault(r, facts, layouts)
        if wrong:
            return wrong
    pairs = Counter((name, r["layout"]) for r in facts.plan["residents"] for name in r["tensors"])
    twice = next((f"{name} in {layout}" for (name, layout), n in pairs.items() if n > 1), None)
    if twice is not None:
        return check("layout_map", "E1", False, twice, "each tensor once in a layout", "It lies twice in memory")
    for s in facts.steps:
        entry = registry.find(s.kernel)
        if entry is None or entry.layout in ("any", "none") or s.op == "rope_kv":
            continue
        names = [facts.head_name] if s.op in SCREENED_HEAD else matrices(s.block, s.label)
        for name in names:
            if entry.layout not in resident_of.get(name, set()):
                return check("layout_map", "E1", False, f"{s.kernel} on {name}",
                             f"a resident in {entry.layout}", "The kernel reads a layout that is not on record")  # fmt: skip
    return check("layout_map", "E1", True)


def matrices(block: int, label: str) -> list[str]:
    """The tensors that a step reads, by its label."""
    return [f"blk.{block}.{part}.weight" if block >= 0 else f"{part}.weight" for part in label.split("+")]


def _resident_fault(r: Mapping[str, Any], facts: Facts, layouts: Mapping[str, str]) -> Check | None:
    name = r["tensors"][0]
    if name.startswith("rope."):
        is_table = name in ("rope.cos", "rope.sin") and r["layout"] == "f32" and len(r["tensors"]) == 1
        good = is_table and r["rows"] == facts.plan["max_context"] and r["cols"] * 2 == facts.config["head_dim"]
        good = good and r["nbytes"] == 4 * r["rows"] * r["cols"]
        return (
            None
            if good
            else check("layout_map", "E1", False, f"{name} {r['rows']}×{r['cols']}", "a table of all positions")
        )
    unknown = [n for n in r["tensors"] if n not in layouts]
    if unknown:
        return check("layout_map", "E1", False, unknown[0], "tensors of the file", "A resident of no tensor")
    shapes = [facts.shapes[n] for n in r["tensors"]]
    if r["layout"] in PANELS:
        if any(layouts[n] not in TERNARY for n in r["tensors"]):
            return check(
                "layout_map", "E1", False, layouts[name], "a ternary layout", f"{name} cannot be packed as trits"
            )
        rows = sum(-(-s[0] // PANEL_ROWS) * PANEL_ROWS for s in shapes)
        panels = rows // PANEL_ROWS
        nbytes = (
            panels * panel_bytes(r["layout"], r["cols"]) + -(-panels * PANELS[r["layout"]][2] // ALIGNMENT) * ALIGNMENT
        )
    elif r["layout"] == "i2s_columns":
        if len(r["tensors"]) > 1 or layouts[name] not in TERNARY:
            return check("layout_map", "E1", False, name, "one ternary tensor", "Columns are those of one matrix")
        rows = shapes[0][0]
        nbytes = r["cols"] * column_bytes(rows) + ALIGNMENT
    elif r["layout"] == "plane44":
        rows = shapes[0][0]
        nbytes = sum(plane_bytes(rows, r["cols"])) + ALIGNMENT
    else:
        rows = 1 if len(shapes[0]) == 1 else sum(s[0] for s in shapes)
        expected = file_bytes(r["layout"], rows * shapes[0][-1])
        if expected is None:
            return check("layout_map", "E1", False, r["layout"], "a layout of known size", f"{name}: unknown in memory")
        nbytes = expected
    if (r["rows"], r["cols"], r["nbytes"]) != (rows, shapes[0][-1], nbytes):
        return check("layout_map", "E1", False, f"{name} {r['rows']}×{r['cols']}, {r['nbytes']} bytes",
                     f"{rows}×{shapes[0][-1]}, {nbytes} bytes", "Not what the tensor takes in this layout")  # fmt: skip
    return None
