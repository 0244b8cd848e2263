"""Compare a model's numbers with those of transformers or llama.cpp on the same weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritium.cli import json_option, note, print_json

if TYPE_CHECKING:
    from tritium.bench.agreement import LogitAgreement
    from tritium.bench.crossval import OpAgreement, Report
    from tritium.bench.peers import Peer

SHOWN_LAYERS = 6


@click.command(short_help=__doc__)
@click.argument("model")
@click.option(
    "--against", "peer_name", type=click.Choice(["transformers", "llama-cpp"]), required=True, help="The other engine."
)
@click.option(
    "--variant",
    help="How it holds the weights. transformers: offline, online, packed, each also with -bf16; "
    "llama-cpp: tq2_0, tq1_0, f16. [default: the first]",
)
@click.option("--text", "file", type=click.Path(path_type=Path), help="A UTF-8 file to compare on.")
@click.option("--prompt", help="A text to compare on. [default: a sonnet]")
@click.option("--tokens", type=click.IntRange(1), default=128, show_default=True, help="Take this many of its tokens.")
@click.option("--cos-tol", type=float, default=0.999, show_default=True, help="The least cosine of a token's logits.")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Compare the k best tokens.")
@click.option("--logits-only", is_flag=True, help="Leave out codes, ops and layers, which are computed in NumPy.")
@click.option("--device", default="auto", show_default=True, help="auto or cpu.")
@click.option("--backend", help="Name our back end outright: cpu or reference.")
@click.option("--threads", type=int, help="Threads, ours and theirs. [default: as each decides]")
@click.option(
    "--i2s-layout", default="128", show_default=True, help="Block order of I2_S in the file: 128, 64 or 4row."
)
@json_option
def command(
    model: str, peer_name: str, variant: str | None, file: Path | None, prompt: str | None, tokens: int, cos_tol: float,
    top: int, logits_only: bool, device: str, backend: str | None, threads: int | None, i2s_layout: str, as_json: bool,
) -> None:  # fmt: skip
    """Compare MODEL's logits, int8 codes, ops and layers with another engine's on the same weights.

    Ops and layers are given the other engine's own inputs. Where it is known to compute something otherwise, that is computed
    here as well, one difference after the other, to show what explains the gap. Exit code 5 if a token's cosine is below
    --cos-tol, or an op or a layer without a moved code is off by more than 1e-5 once the known differences are taken over.
    """
    if file is not None and prompt is not None:
        raise click.UsageError("--text and --prompt exclude each other")
    from tritium.bench.agreement import PASSAGE
    from tritium.bench.crossval import Tolerance, cross_validate
    from tritium.bench.peers import open_peer
    from tritium.engine.model import load
    from tritium.errors import NumericsError
    from tritium.formats.gguf import open_gguf

    text = _read(file) if file is not None else PASSAGE if prompt is None else prompt
    with load(model, device=device, backend=backend, threads=threads, i2s_layout=i2s_layout) as ours:
        for line in ours.tokenizer.notes:
            note(line)
        ids = ours.tokenize(text)[: min(tokens, ours.max_context)]
        with open_gguf(ours.path, i2s_layout=i2s_layout) as opened:
            peer = open_peer(peer_name, ours.graph, opened, variant=variant, threads=threads)
            try:
                report = cross_validate(
                    ours.logits(ids), ours.graph, opened, peer, ids,
                    tolerance=Tolerance(cosine=cos_tol), top=top, layers=not logits_only,
                )  # fmt: skip
            finally:
                peer.close()
        ran = {"model": str(ours.path), "backend": ours.plan.backend, "graph_hash": ours.graph_hash}
    if as_json:
        print_json(to_json(report, peer, ran))
    else:
        _print_text(report, peer, ran)
    if report.failures:
        raise NumericsError(f"{ran['model']} and {peer.name} differ", got="; ".join(report.failures))


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file} is not UTF-8 text: byte {error.start}") from None


def to_json(report: Report, peer: Peer, ran: dict[str, str]) -> dict[str, Any]:
    """The whole report as JSON data, arrays as lists over tokens."""
    data = asdict(report)
    for name in ("logits", "rounding", "to_float32"):
        if data[name] is not None:
            data[name] = {
                key: value.tolist() if hasattr(value, "tolist") else value for key, value in data[name].items()
            }
    agrees = not report.failures
    theirs = {"name": peer.name, "version": peer.version, "is_float32": peer.is_float32, **peer.settings}
    return {**ran, "peer": theirs, "agrees": agrees, **data}


def _print_text(report: Report, peer: Peer, ran: dict[str, str]) -> None:
    from rich.console import Console

    # A width of its own: a pipe has none, and the tables are made for this one.
    console = Console(width=110, highlight=False, no_color=not _colored(), soft_wrap=False)
    bits = {None: "", True: ", the same bits as the NumPy walk", False: ", NOT the bits of the NumPy walk"}
    console.print(
        f"{ran['model']} on {ran['backend']}{bits[report.same_bits]} · {len(report.ids)} tokens", markup=False
    )
    console.print(
        f"{peer.name} {peer.version} · {', '.join(f'{k} {v}' for k, v in peer.settings.items())}", markup=False
    )
    console.print(_logit_table(report))
    if report.logits.first_divergence is not None:
        console.print(_first_divergence(report.logits), markup=False)
    if report.codes:
        console.print(_code_table(report))
    if report.ops:
        console.print(_op_table(report.ops))
    if report.layers:
        console.print(_layer_table(report))
    if report.ladder:
        console.print(_ladder_table(report, peer))
    if report.rounding is not None and report.to_float32 is not None:
        console.print(
            f"the peer rounds to bfloat16: its own logits in float32 have a least cosine of {_least(report.rounding)} with those "
            f"above, and of {_least(report.to_float32)} with ours", markup=False,
        )  # fmt: skip
    verdict = "beyond tolerance: " + "; ".join(report.failures) if report.failures else "agrees within tolerance"
    console.print(verdict, style="bold red" if report.failures else "bold green", markup=False)


def _colored() -> bool:
    import sys

    from tritium import env

    return sys.stdout.isatty() and not env.no_color()


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", header_style="dim", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _logit_table(report: Report) -> Any:
    import numpy as np

    a = report.logits
    rows = [
        ("cosine", f"{a.cosine.min():.6f}", f"{np.median(a.cosine):.8f}"),
        ("max abs", f"{a.max_abs.max():.3g}", f"{np.median(a.max_abs):.3g}"),
        ("MSE", f"{a.mse.max():.3g}", f"{np.median(a.mse):.3g}"),
        ("KL, nats", f"{a.kl.max():.3g}", f"{np.median(a.kl):.3g}"),
        (f"top {a.k} shared", f"{a.top_k.min():.2f}", f"{a.top_k.mean():.3f} mean"),
    ]
    if report.nats is not None and report.their_nats is not None and report.delta is not None:
        error = "" if report.delta.error is None else f" ± {report.delta.error:.2g}"
        rows.append(("nats a token", f"{report.nats.value:.5f}", f"theirs {report.delta.value:+.2g}{error}"))
    rows.append(("same best token", f"{int(a.same_top.sum())} of {len(a.same_top)}", ""))
    return _table("Logits", ("", "worst token", "median"), rows)


def _first_divergence(a: LogitAgreement) -> str:
    first = a.first_divergence
    if first is None:
        return ""
    return (
        f"first other best token after token {first.position}: ours {first.ours} by {first.margin:.3g}, theirs {first.theirs} by "
        f"{first.their_margin:.3g}; logits differ there by up to {first.max_abs:.3g}"
    )


def _code_table(report: Report) -> Any:
    total = sum(count.n_codes for count in report.codes)
    rows = []
    for title, which in (("ours from the peer's input", "injected"), ("ours from our own", "end_to_end")):
        found = [getattr(count, which) for count in report.codes]
        most = max(report.codes, key=lambda count: getattr(count, which).by_one + getattr(count, which).by_more)
        one, more = sum(f.by_one for f in found), sum(f.by_more for f in found)
        rows.append((title, str(one), str(more), f"{(one + more) / total:.2e}", most.value if one + more else ""))
    return _table(f"int8 codes that moved, of {total}", ("", "by one", "by more", "share", "most at"), rows)


def _op_table(ops: Sequence[OpAgreement]) -> Any:
    rows = []
    for name in dict.fromkeys(op.op for op in ops):
        same = [op for op in ops if op.op == name]
        worst = max(same, key=lambda op: op.explained)
        rows.append(
            (name, str(len(same)), f"{max(op.error for op in same):.1e}", f"{worst.explained:.1e}", worst.value)
        )
    columns = ("", "count", "by our rules", "differences taken over", "worst at")
    return _table("Ops given the peer's inputs: relative error of the worst token", columns, rows)


def _layer_table(report: Report) -> Any:
    shown = report.layers
    title = "Layers given the peer's input: relative error"
    if len(shown) > SHOWN_LAYERS:
        title += f" (the worst {SHOWN_LAYERS} of {len(shown)})"
        shown = tuple(sorted(shown, key=lambda layer: layer.clean or 0.0, reverse=True)[:SHOWN_LAYERS])
    rows = []
    for layer in shown:
        clean = "" if layer.clean is None else f"{layer.clean:.1e}"
        of = f"{layer.n_clean} of {len(report.ids)}"
        rows.append((str(layer.layer), f"{layer.median:.1e}", f"{layer.worst:.1e}", clean, of))
    columns = ("", "median token", "worst token", "differences taken over, no moved code", "such tokens")
    return _table(title, columns, rows)


def _ladder_table(report: Report, peer: Peer) -> Any:
    rows = []
    for i, rung in enumerate(report.ladder):
        gap = "" if rung.layer is None else f"{rung.layer:.1e}"
        rows.append((("+ " if i else "") + rung.text, f"{rung.cosine:.9f}", f"{rung.max_abs:.2g}", gap))
    columns = ("", "least cosine", "max abs", "layer, median")
    return _table(f"What explains the gap: the differences of {peer.name}, computed here", columns, rows)


def _least(agreement: LogitAgreement) -> str:
    return f"{agreement.cosine.min():.6f}"
