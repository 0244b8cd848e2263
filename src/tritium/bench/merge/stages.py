"""The stages of the gate of benchmarks: build, benchmark, verify, baseline, accuracy, service levels.

A stage that has not run says PENDING, one that this machine or this model cannot run NOT MEASURED. Nothing is asserted: each
word is a decision over figures that the stage itself measured, and raw outputs are kept beside the reports.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritium import env
from tritium.bench.accuracy import linear_accuracy
from tritium.bench.agreement import PASSAGE
from tritium.bench.merge.children import PROGRAM, Child, run_child
from tritium.bench.merge.rules import Rules
from tritium.bench.verdict import Decision, together
from tritium.errors import TritiumError

ACCURACY_TOKENS = 32
MEMORY_TOKENS = 32
SIMD_TOKENS = 4
PENDING = Decision("PENDING", ("it has not run",))


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be judged, and where the raw outputs go.

    ``tokens`` are decoded in the benchmark, ``rounds`` run of what is interleaved; ``base`` is a baseline set, a folder of
    them or a release file.
    """

    root: Path
    model: str
    folder: Path
    rules: Rules
    tokens: int = 128
    threads: int | None = None
    repeats: int = 2
    rounds: int = 3
    base: Path | None = None
    peers: Path | None = None

    @property
    def receipt(self) -> Path:
        """The receipt of the benchmark."""
        return self.folder / "inference.json"

    def tritium(
        self, name: str, *arguments: str, environment: Mapping[str, str] | None = None, watches_memory: bool = False
    ) -> Child:
        """Run a command of this package; its output is kept under ``name``."""
        return run_child(
            [sys.executable, *PROGRAM, *arguments],
            keep=self.folder / f"{name}.txt",
            environment=environment,
            cwd=self.root,
            watches_memory=watches_memory,
        )

    def engine(self) -> list[str]:
        """Options of every command that runs the model."""
        return ["-m", self.model, "--device", "cpu", *(["--threads", str(self.threads)] if self.threads else [])]


@dataclass(slots=True)
class Stage:
    """A stage by name, its decision, and what it measured for later stages and reports."""

    name: str
    run: Callable[[Job, Mapping[str, Stage]], Decision]
    decision: Decision = PENDING
    seconds: float | None = None
    artifacts: tuple[str, ...] = field(default=())


def build(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Compile the native core from nothing: duration, warnings, errors."""
    if env.skips_build():
        return Decision("NOT MEASURED", ("BITNET_SKIP_BUILD is set",))
    if not (job.root / "CMakeLists.txt").is_file():
        return Decision("NOT MEASURED", ("there is no source tree here: the package is installed",))
    folder = job.folder / "build"
    configure = [
        "cmake",
        "-S",
        str(job.root),
        "-B",
        str(folder),
        "-G",
        "Ninja",
        "-DTRITIUM_PYTHON=OFF",
        "-DCMAKE_BUILD_TYPE=Release",
    ]
    try:
        done = run_child(configure, keep=job.folder / "configure.txt", environment={"CMAKE_CXX_COMPILER_LAUNCHER": ""})
        if done.exit_code == 0:
            done = run_child(["cmake", "--build", str(folder), "--clean-first"], keep=job.folder / "build.txt")
    except FileNotFoundError:
        return Decision("NOT MEASURED", ("cmake is not installed",))
    counts = {f"{kind}s": len(re.findall(rf"\b{kind}:", done.out + done.log)) for kind in ("warning", "error")}
    figures = {"build_s": round(done.seconds, 2), **counts}
    if done.exit_code:
        return Decision("FAIL", (f"{done.command} ended with {done.exit_code}: {done.last_line}",), figures)
    told = f"{done.seconds:.1f} s, {counts['warnings']} warnings, {counts['errors']} errors"
    return Decision("ATTENTION" if counts["warnings"] else "PASS", (told,), figures)


def benchmark(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Run the benchmark; its receipt is the base of what follows."""
    job.receipt.unlink(missing_ok=True)
    done = job.tritium(
        "benchmark", "benchmark", *job.engine(), "--tokens", str(job.tokens), "--repeats", str(job.repeats),
        "--output", str(job.receipt), "--report", str(job.folder / "benchmark.json"),
    )  # fmt: skip
    if done.exit_code or not job.receipt.is_file():
        return Decision("FAIL", (f"the benchmark ended with {done.exit_code}: {done.last_line}",))
    receipt = read_receipt(job)
    tensors = receipt["evidence"]["model"]["tensors"]
    projections = [t for t in tensors if t["name"].startswith("blk.") and len(t["shape"]) == 2]
    figures = {
        "prefill_ms": receipt["prefill_ms"],
        "tokens_generated": receipt["tokens_generated"],
        "tokens_per_second": receipt["tokens_per_second"],
        "backend": receipt["backend"],
        "deterministic": receipt["deterministic"],
        "kernels_count": len(receipt["kernels"]),
        "model_quantization": ", ".join(sorted({t["layout"] for t in projections})),
        "warmup_s": json.loads((job.folder / "benchmark.json").read_text(encoding="utf-8"))["warmup_s"],
    }
    if receipt["tokens_generated"] != job.tokens:
        return Decision("FAIL", (f"{receipt['tokens_generated']} of {job.tokens} tokens came out",), figures)
    return Decision("PASS", (f"{receipt['tokens_per_second']:.4g} tok/s over {job.tokens} tokens",), figures)


def read_receipt(job: Job) -> dict[str, Any]:
    """The receipt that the benchmark wrote."""
    receipt: dict[str, Any] = json.loads(job.receipt.read_bytes())
    return receipt


def verify(job: Job, done: Mapping[str, Stage]) -> Decision:
    """Judge the receipt: accepted at kernels=E3, model=E3 and speed=E2 or refused."""
    from tritium.gates import judge, parse_requirements, read_policy
    from tritium.receipts.registry import find

    if not job.receipt.is_file():
        return Decision("PENDING", ("there is no receipt to judge",))
    policy = read_policy()
    verdict = judge(
        job.receipt.read_bytes(), policy, required=parse_requirements("kernels=E3,model=E3,speed=E2", policy)
    )
    (job.folder / "verdict.txt").write_text("\n".join(verdict.lines()) + "\n", encoding="utf-8")
    receipt = read_receipt(job)
    figures = {
        "schema_version": receipt["schema_version"],
        "compute_path": receipt["compute_path"],
        "kernels_all_real": all(find(kernel) is not None for kernel in receipt["kernels"]),
        "levels": {claim.name: claim.level for claim in verdict.claims},
    }
    if verdict.failed:
        reasons = tuple(f"{check.id}: {check.hint or check.value}" for check in verdict.failed)
        return Decision("FAIL", reasons, figures)
    if verdict.exit_code:
        doubts = tuple(f"{c.id}: {c.hint or c.value}" for c in verdict.checks if c.status == "INCONCLUSIVE")
        return Decision("INCONCLUSIVE", (*verdict.missing, *doubts), figures)
    return Decision("PASS", ("accepted at kernels=E3, model=E3, speed=E2",), figures)


def baseline(job: Job, _: Mapping[str, Stage]) -> Decision:
    """The receipt against a baseline: differences of schema, back end, path, kernels and output, then the speed.

    An entry of a release file is compared by the classic policy; where it names its set, the exact facts are, too.
    """
    from tritium.bench.baseline import is_set, judge_receipts, read_release, read_set
    from tritium.bench.figures import judge_exact, read_sample

    if not job.receipt.is_file():
        return Decision("PENDING", ("there is no receipt to compare",))
    base = job.base or job.root / "ci/baseline.json"
    if not base.exists():
        return Decision("INCONCLUSIVE", (f"no comparable baseline: {base} does not exist",))
    sample = read_sample(job.receipt)
    try:
        if base.is_dir() or is_set(base):
            sets = [read_set(p) for p in ([base] if base.is_file() else sorted(base.glob("*.json")))]
            return judge_receipts([sample], sets, [], "ratchet")
        entries = read_release(base)
        decision = judge_receipts([sample], [], entries, "classic")
        own = sample.key is not None and next((e.set_path for e in entries if e.key_id == sample.key.id), None)
        if own:
            released = read_set(job.root / own).samples[0].receipt
            return together([decision, judge_exact(released, sample.receipt)])
    except TritiumError as error:
        return Decision("INCONCLUSIVE", (f"no comparable baseline: {error}",))
    return decision


def accuracy(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Every linear layer against float32 activations on a text that the model was not trained on."""
    from tritium.engine.model import load
    from tritium.formats.gguf import open_gguf

    limit = job.rules.slo["accuracy_percent"]
    with load(job.model, device="cpu", threads=job.threads) as model:
        ids = model.tokenize(PASSAGE)[:ACCURACY_TOKENS]
        logits = model.logits(ids)
        with open_gguf(model.path) as file:
            layers = linear_accuracy(model.graph, file, ids, logits)
    worst = min(layers, key=lambda layer: layer.percent)
    figures = {
        "accuracy_percent": worst.percent,
        "accuracy_layer": worst.name,
        "largest_relative_error": max(layer.error for layer in layers),
        "layers": len(layers),
    }
    rows = [{"layer": a.name, "percent": a.percent, "relative_error": a.error} for a in layers]
    (job.folder / "accuracy.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    told = (
        f"{worst.percent:.3f} % in {worst.name}, the least of {len(layers)} layers; more than {limit:g} % are asked for"
    )
    return Decision("PASS" if worst.percent > limit else "FAIL", (told,), figures)


def latency(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Wall time of the prompt and the tokens after it, model loaded; promised for one shape of model only."""
    if not job.receipt.is_file():
        return Decision("PENDING", ("there is no receipt to read",))
    receipt, rules = read_receipt(job), job.rules
    limit, tokens = rules.slo["latency_s"], int(rules.slo["latency_tokens"])
    spent = receipt["evidence"]["run"]["token_ns"][-1] / 1e9
    figures = {"latency_s": spent, "latency_limit_s": limit, "latency_margin_percent": 100 * (1 - spent / limit)}
    config = receipt["evidence"]["model"]["config"]
    told = f"{spent:.3f} s for prompt and {receipt['tokens_generated']} tokens"
    if any(config.get(name) != size for name, size in rules.shape.items()):
        return Decision(
            "NOT MEASURED", (f"{told}; the limit of {limit:g} s is one for another shape of model",), figures
        )
    if receipt["tokens_generated"] != tokens:
        return Decision("NOT MEASURED", (f"{told}; the limit of {limit:g} s is one for {tokens} tokens",), figures)
    return Decision("PASS" if spent <= limit else "FAIL", (f"{told}; {limit:g} s at most",), figures)


def memory(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Peak memory with trace and receipt against without, whole programs, interleaved."""
    plain: list[int] = []
    recorded: list[int] = []
    arguments = ["run", *job.engine(), "-n", str(MEMORY_TOKENS), "--temperature", "0", "--ignore-eos", PASSAGE]
    for i in range(job.rounds):
        place = ["--receipt", str(job.folder / "memory.receipt.json")]
        for peaks, extra in ((plain, []), (recorded, place)):
            done = job.tritium(f"memory-{'receipt' if extra else 'plain'}-{i}", *arguments, *extra, watches_memory=True)
            if done.exit_code:
                return Decision("FAIL", (f"{done.command} ended with {done.exit_code}: {done.last_line}",))
            if done.peak_bytes is None:
                return Decision("NOT MEASURED", ("this system does not tell a program's peak memory",))
            peaks.append(done.peak_bytes)
    share = statistics.median(recorded) / statistics.median(plain) - 1
    limit = job.rules.slo["memory_overhead"]
    figures = {"memory_overhead": share, "peak_rss_bytes": statistics.median(recorded), "memory_rounds": job.rounds}
    told = f"{share:+.2%} peak memory with trace and receipt, median of {job.rounds}; below {limit:.0%} is asked for"
    return Decision("PASS" if share < limit else "FAIL", (told,), figures)


def simd(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Decode speed of the best instruction set over the scalar kernels, interleaved."""
    from tritium.backends import cpu

    best = cpu.isas()[0]
    if best == "scalar":
        return Decision("NOT MEASURED", ("this machine has the scalar kernels only",))
    ratios = []
    for i in range(job.rounds):
        speeds = {}
        for isa in ("scalar", best):
            report = job.folder / f"simd-{isa}-{i}.json"
            done = job.tritium(
                f"simd-{isa}-{i}", "benchmark", *job.engine(), "--tokens", str(SIMD_TOKENS), "--repeats", "1",
                "--warmup-tokens", "1", "--output", str(job.folder / f"simd-{isa}-{i}.receipt.json"), "--report", str(report),
                environment={"TRITIUM_ISA": isa},
            )  # fmt: skip
            if done.exit_code:
                return Decision("FAIL", (f"{done.command} ended with {done.exit_code}: {done.last_line}",))
            speeds[isa] = json.loads(report.read_text(encoding="utf-8"))["decode_tokens_per_s"]["median"]
        ratios.append(speeds[best] / speeds["scalar"])
    gain, limit = statistics.median(ratios), job.rules.slo["simd_gain"]
    told = (
        f"{best} decodes {gain:.2f} times as fast as scalar, median of {job.rounds}; more than {limit:g} is asked for"
    )
    return Decision("PASS" if gain > limit else "FAIL", (told,), {"simd_gain": gain, "simd_isa": best})


def crossval(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Every op on the peer's inputs, and whole layers without a moved code, against transformers."""
    interpreter = job.peers or Path(sys.executable)
    probe = run_child([str(interpreter), "-c", "import torch, transformers, tritium"])
    if probe.exit_code:
        return Decision(
            "NOT MEASURED", ("transformers is not installed: make crossval, then --peers build/peers/bin/python",)
        )
    program = [str(interpreter), *PROGRAM]
    done = run_child(
        [*program, "crossval", job.model, "--against", "transformers", "--device", "cpu", "--json"],
        keep=job.folder / "crossval.txt", cwd=job.root,
    )  # fmt: skip
    if done.exit_code not in (0, 5) or not done.out.startswith("{"):
        return Decision("FAIL", (f"{done.command} ended with {done.exit_code}: {done.last_line}",))
    report = json.loads(done.out)
    worst = max((op["explained"] for op in report["ops"]), default=math.nan)
    figures = {"crossval_worst_op": worst, "crossval_cosine": min(report["logits"]["cosine"])}
    if report["failures"]:
        return Decision("FAIL", tuple(report["failures"]), figures)
    told = f"the worst op differs by {worst:.2g}, the worst token's cosine is {figures['crossval_cosine']:.6f}"
    return Decision("PASS", (told,), figures)


PIPELINE: tuple[tuple[str, Callable[[Job, Mapping[str, Stage]], Decision]], ...] = (
    ("build", build),
    ("benchmark", benchmark),
    ("verify", verify),
    ("baseline", baseline),
    ("accuracy", accuracy),
    ("latency", latency),
    ("memory", memory),
    ("simd", simd),
    ("crossval", crossval),
)
