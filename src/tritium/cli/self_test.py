"""Check that every instruction set of this machine computes the reference's bits."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from tritium.cli import json_option, print_json
from tritium.errors import NumericsError

TEXT = "ROMEO:\nBut, soft! what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n"
THREADS = (1, 2, 3)
BROKEN = ("self-test failed", "illegal instruction")


@dataclass(frozen=True, slots=True)
class Row:
    """One forward pass over the text: what ran it, and the SHA-256 of the logits after each of its tokens."""

    backend: str
    isa: str
    threads: int
    logits_sha256: str
    ok: bool


def logits_hash(path: Path, isas: tuple[str, ...] | None, n_threads: int) -> str:
    """The hash of all logits: on the CPU with the best of ``isas``, or of the reference for None.

    The tokens are forwarded in pieces of many lengths, so that kernels for one token and for several take part.
    """
    from tritium.backends import Backend, find
    from tritium.engine.tokenizer import Tokenizer
    from tritium.executor import Executor, single_sequence
    from tritium.formats.gguf import open_gguf
    from tritium.models import build_graph
    from tritium.plan import make_plan

    with open_gguf(path) as file:
        ids = np.array(Tokenizer.from_gguf(file).encode(TEXT), np.int32)
        backend: Backend
        if isas is None:
            backend = find("reference")
        else:
            from tritium.backends.cpu import CpuBackend

            backend = CpuBackend(isas)
        plan = make_plan(build_graph(file), backend, max_tokens=len(ids), max_outputs=len(ids))
        n_blocks = -(-len(ids) // plan.kv_block)
        table = np.arange(n_blocks, dtype=np.int32)
        digest = hashlib.sha256()
        with Executor(plan, file, n_threads=n_threads, kv_blocks=n_blocks) as executor:
            start, size = 0, 1
            while start < len(ids):
                piece = ids[start : start + size]
                logits = executor.step(single_sequence(piece, start, table, all_outputs=True)).logits
                if logits is None:
                    raise NumericsError("a step that was asked for logits returned none")
                digest.update(logits.astype("<f4").tobytes())
                start, size = start + len(piece), size * 3 % 17
        return digest.hexdigest()


@click.command(short_help=__doc__)
@click.option("-m", "--model", default="demo", show_default=True, help='A GGUF file, or "demo".')
@json_option
def command(model: str, as_json: bool) -> None:
    """Check that every instruction set that runs here, with 1, 2 and 3 threads, computes the reference's bits.

    First each one's kernels are held against the scalar ones, as at every start; then a text goes through a whole model. The exit
    code is 5 if any bit differs.
    """
    from tritium.backends import cpu
    from tritium.engine.model import resolve_model

    path = resolve_model(model)
    status, usable = dict(cpu.isa_status()), cpu.isas()
    if not as_json:
        for name, text in status.items():
            forced = "" if name in usable or text != "ok" else ", not used: TRITIUM_ISA"
            click.echo(f"{name:<12} kernels: {text}{forced}")
        click.echo(f"\n{'back end':<11}{'ISA':<13}{'threads':<9}{'logits sha256':<18}")
    expected = logits_hash(path, None, 1)
    rows = [Row("reference", "", 1, expected, ok=True)]
    _show(rows[0], as_json)
    for n, isa in enumerate(usable):
        for n_threads in THREADS:
            found = logits_hash(path, usable[n:], n_threads)
            rows.append(Row("cpu", isa, n_threads, found, found == expected))
            _show(rows[-1], as_json)
    wrong = [f"{name}: {text}" for name, text in status.items() if text in BROKEN]
    wrong += [f"{row.isa} with {row.threads} threads: logits differ" for row in rows if not row.ok]
    if as_json:
        document = {
            "ok": not wrong,
            "model": str(path),
            "isa_status": status,
            "rows": [asdict(row) for row in rows],
            "failures": wrong,
        }
        print_json(document)
    if wrong:
        raise NumericsError("self-test failed", where="; ".join(wrong))


def _show(row: Row, as_json: bool) -> None:
    if not as_json:
        verdict = "ok" if row.ok else "DIFFERS"
        click.echo(f"{row.backend:<11}{row.isa:<13}{row.threads:<9}{row.logits_sha256[:16]:<18}{verdict}")
