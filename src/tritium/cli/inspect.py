"""Show what a model file holds: architecture, sizes, tokenizer, tensors, hash."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from tritium.cli import json_option, print_json

if TYPE_CHECKING:
    from tritium.formats.gguf import GGUFFile


@click.command(short_help=__doc__)
@click.argument("model")
@click.option("--tensors", "list_tensors", is_flag=True, help="List every tensor; the JSON document always does.")
@click.option("--check", "check_tensors", is_flag=True, help="Read every tensor and refuse what cannot be a weight.")
@click.option("--i2s-layout", default="128", show_default=True, help="Block order of I2_S: 128, 64 or 4row.")
@json_option
def command(model: str, list_tensors: bool, check_tensors: bool, i2s_layout: str, as_json: bool) -> None:
    """Show what MODEL holds, a GGUF file or "demo". Its header is verified whole; weights are read with --check only."""
    from tritium.engine.model import resolve_model
    from tritium.formats.gguf import open_gguf

    with open_gguf(resolve_model(model), i2s_layout=i2s_layout) as file:
        if check_tensors:
            for name in file.tensors:
                file.check(name)
        facts = describe(file)
    if as_json:
        print_json(facts)
        return
    click.echo("\n".join(_lines(facts, list_tensors)))


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
