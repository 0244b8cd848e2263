"""Show what a model file holds: architecture, sizes, tokenizer, tensors, hash."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tritium.cli import json_option, print_json

if TYPE_CHECKING:
    from tritium.formats.gguf import GGUFFile
    from tritium.formats.sanity import Finding, Report

SHOWN_TENSORS = 8


def _print_policy(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        from tritium.formats.sanity_policy import BUILT_IN

        click.echo(BUILT_IN.read_text(encoding="utf-8"), nl=False)
        context.exit()


@click.command(short_help=__doc__)
@click.argument("model")
@click.option("--tensors", "list_tensors", is_flag=True, help="List every tensor; the JSON document always does.")
@click.option("--check", "check_tensors", is_flag=True, help="Read every tensor and refuse what cannot be a weight.")
@click.option("--i2s-layout", default="128", show_default=True, help="Block order of I2_S: 128, 64 or 4row.")
@click.option(
    "--gate",
    type=click.Choice(["auto", "none", "policy"]),
    default="none",
    show_default=True,
    help="Judge every tensor: by the built-in rules for the architecture and file type, not at all, or by --policy.",
)
@click.option("--policy", "policy_path", metavar="FILE", help="With --gate policy: a TOML file of rules.")
@click.option("--strict", is_flag=True, help="With --gate: exit 5 on ATTENTION too, not only on FAIL.")
@click.option(
    "--print-policy", is_flag=True, is_eager=True, expose_value=False, callback=_print_policy,
    help="Print the built-in rules, to copy and edit, and exit.",
)  # fmt: skip
@json_option
def command(
    model: str,
    list_tensors: bool,
    check_tensors: bool,
    i2s_layout: str,
    gate: str,
    policy_path: str | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Show what MODEL holds, a GGUF file or "demo". Its header is verified whole.

    Weights are read with --check, which stops at the first that cannot be one, and with --gate, which measures all of
    them and never corrects any. A verdict is PASS, ATTENTION (outside a range: unlikely, but it runs), FAIL (it cannot
    be a model) or N-A (does not apply).
    """
    from tritium.engine.model import resolve_model
    from tritium.formats.gguf import open_gguf

    if (gate == "policy") != (policy_path is not None):
        raise click.UsageError("--gate policy and --policy FILE go together.")
    if strict and gate == "none":
        raise click.UsageError("--strict goes with --gate auto or --gate policy.")
    report = None
    with open_gguf(resolve_model(model), i2s_layout=i2s_layout) as file:
        if check_tensors:
            for name in file.tensors:
                file.check(name)
        if gate != "none":
            from tritium.formats.sanity import inspect_sanity
            from tritium.formats.sanity_policy import BUILT_IN, read_policy

            report = inspect_sanity(file, read_policy(policy_path or BUILT_IN))
        facts = describe(file)
    if as_json:
        print_json(facts if report is None else facts | {"gate": gate_facts(report, gate, strict)})
    else:
        click.echo("\n".join(_lines(facts, list_tensors)))
        if report is not None:
            _print_report(report)
    if report is not None:
        _refuse(report, facts["path"], strict)


def _refuse(report: Report, path: str, strict: bool) -> None:
    from tritium.errors import NumericsError

    n_fail, n_attention = report.count("FAIL"), report.count("ATTENTION")
    if n_fail or (strict and n_attention):
        raise NumericsError("model sanity", where=path, expected="every check to PASS" if strict else "no check to FAIL",
                            got=f"{n_fail} FAIL and {n_attention} ATTENTION")  # fmt: skip


def gate_facts(report: Report, gate: str, strict: bool) -> dict[str, Any]:
    """The judgement of a file as JSON values."""
    return {
        "gate": gate,
        "policy": report.policy.source,
        "policy_sha256": report.policy.sha256,
        "set": report.rules.name,
        "strict": strict,
        "verdict": report.verdict,
        "findings": [_finding_facts(finding) for finding in report.findings],
        "measurements": [asdict(measurement) for measurement in report.measurements],
    }


def _finding_facts(finding: Finding) -> dict[str, Any]:
    facts = asdict(finding)
    if finding.bound is not None:
        facts["bound"] = {"min": finding.bound.min, "max": finding.bound.max}
    facts["outside"] = [{"tensor": name, "low": low, "high": high} for name, (low, high) in finding.outside]
    return facts


def _print_report(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    from tritium import env

    colors = {"PASS": "green", "ATTENTION": "yellow", "FAIL": "bold red", "N-A": "dim"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("role", "check", "tensors", "value", "bound", "verdict"):
        table.add_column(
            column, justify="right" if column == "tensors" else "left", header_style="dim", overflow="fold"
        )
    details = []
    for finding in report.findings:
        value = finding.note if finding.low is None else _range(finding.low, finding.high)
        bound = "" if finding.bound is None else _range(finding.bound.min, finding.bound.max)
        row = (finding.role, finding.check or "", str(finding.n_tensors), value, bound)
        table.add_row(*row, finding.verdict, style=None if finding.verdict == "PASS" else colors[finding.verdict])
        if finding.outside:
            details.append(_detail(finding, bound))
    # A width of its own: a pipe has none, and the table is made for this one.
    console = Console(width=110, highlight=False, markup=False, no_color=env.no_color())
    console.print()
    console.print(table)
    for text in details:
        console.print(text, soft_wrap=True)
    source = "the built-in policy" if report.policy.source == "built-in" else report.policy.source
    text = f"sanity: {report.verdict}, by the rules “{report.rules.name}” of {source}"
    console.print(text, style=colors[report.verdict], soft_wrap=True)


def _range(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"≤ {high:g}" if low is None else f"≥ {low:g}"
    return f"{low:.4g}" if low == high else f"{low:.4g} … {high:.4g}"


def _detail(finding: Finding, bound: str) -> str:
    shown = [f"{name} {_range(low, high)}" for name, (low, high) in finding.outside[:SHOWN_TENSORS]]
    more = len(finding.outside) - len(shown)
    text = f"{finding.verdict}: {finding.check} ({bound}): {', '.join(shown)}" + (f" and {more} more" if more else "")
    return text + (f". {finding.note[0].upper()}{finding.note[1:]}." if finding.note else "")


def describe(file: GGUFFile) -> dict[str, Any]:
    """The facts of a file as JSON values. Errors: FormatError for a hyperparameter that is not finite."""
    from tritium.layouts import LAYOUTS

    architecture = file.get("general.architecture", str, "unknown")
    layouts: dict[str, dict[str, Any]] = {}
    for info in file.tensors.values():
        empty = {"tensors": 0, "weights": 0, "bytes": 0, "bits_per_weight": LAYOUTS[info.layout].bits}
        total = layouts.setdefault(info.layout, empty)
        total["tensors"] += 1
        total["weights"] += math.prod(info.shape)
        total["bytes"] += info.nbytes
    return {
        "path": str(file.path),
        "bytes": file.nbytes,
        "sha256": file.sha256(),
        "gguf_version": file.version,
        "alignment": file.alignment,
        "architecture": architecture,
        "name": file.metadata.get("general.name"),
        "file_type": file.metadata.get("general.file_type"),
        "hyperparameters": {
            key.removeprefix(f"{architecture}."): _plain(file, key)
            for key in file.metadata
            if key.startswith(f"{architecture}.")
        },
        "tokenizer": _tokenizer(file),
        "layouts": layouts,
        "tensors": [
            {"name": t.name, "shape": list(t.shape), "layout": t.layout, "offset": t.offset, "bytes": t.nbytes}
            for t in file.tensors.values()
        ],
    }


def _plain(file: GGUFFile, key: str) -> Any:
    value = file.metadata[key]
    if isinstance(value, float):
        return file.require(key, float)
    return value if isinstance(value, str | bool | int) else f"{len(value)} elements"


def _tokenizer(file: GGUFFile) -> dict[str, Any] | None:
    if "tokenizer.ggml.model" not in file.metadata:
        return None
    counts = {}
    for name in ("tokens", "merges"):
        array = file.metadata.get(f"tokenizer.ggml.{name}")
        counts[name] = len(array) if array is not None and not isinstance(array, bool | int | float | str) else 0
    return {
        "model": _plain(file, "tokenizer.ggml.model"),
        "pre": file.metadata.get("tokenizer.ggml.pre"),
        **counts,
        "chat_template": "tokenizer.chat_template" in file.metadata,
    }


def _lines(facts: dict[str, Any], list_tensors: bool) -> list[str]:
    tokenizer = facts["tokenizer"]
    lines = [
        f"{facts['path']}: GGUF {facts['gguf_version']}, {facts['bytes']:,} bytes",
        f"sha256        {facts['sha256']}",
        f"architecture  {facts['architecture']}" + (f" ({facts['name']})" if facts["name"] else ""),
    ]
    if tokenizer is None:
        lines.append("tokenizer     none")
    else:
        pre = f", {tokenizer['pre']}" if tokenizer["pre"] else ""
        template = ", chat template" if tokenizer["chat_template"] else ""
        lines.append(f"tokenizer     {tokenizer['model']}{pre}, {tokenizer['tokens']:,} tokens{template}")
    width = max((len(key) for key in facts["hyperparameters"]), default=0)
    lines += ["", *(f"{key:<{width}}  {value}" for key, value in facts["hyperparameters"].items())]
    lines += ["", "layout     tensors         weights           bytes  bits/weight"]
    for name, total in facts["layouts"].items():
        counts = f"{total['tensors']:>7}  {total['weights']:>14,}  {total['bytes']:>14,}"
        lines.append(f"{name:<9}  {counts}  {total['bits_per_weight']:>11.4g}")
    if list_tensors:
        width = max((len(tensor["name"]) for tensor in facts["tensors"]), default=0)
        lines.append("")
        for tensor in facts["tensors"]:
            shape = " × ".join(map(str, tensor["shape"]))
            place = f"{tensor['bytes']:>14,} bytes at {tensor['offset']:,}"
            lines.append(f"{tensor['name']:<{width}}  {tensor['layout']:<9}  {shape:>16}  {place}")
    return lines
