"""Build a receipt from what the executor counted and the clock showed; nothing in it is declared."""

from __future__ import annotations

import hashlib
import resource
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

import tritium
from tritium import env
from tritium.errors import NumericsError
from tritium.evidence.source import read_source
from tritium.ir import Plan
from tritium.ops import SCREENED_HEAD
from tritium.profile import PROFILE_HASH
from tritium.receipts import jcs, registry
from tritium.receipts.schema import EVIDENCE_VERSION, SCHEMA_VERSION
from tritium.resources import Memory, memory
from tritium.types import StepCount, Trace

if TYPE_CHECKING:
    from tritium.engine.generate import GenerationResult
    from tritium.engine.model import Model
    from tritium.engine.sampling import SamplingParams

FAMILIES = {
    "linear": "body",
    "attention": "attention",
    "logits_projection": "head",
    **dict.fromkeys(SCREENED_HEAD, "head"),
}
"""Op → matrix family; every other op is "other"."""

STAGES = {"embedding": "embed", "logits_projection": "logits", **dict.fromkeys(SCREENED_HEAD, "logits")}
"""Op → stage; every other op is "forward", and what passes between steps is "sample"."""

PROBE_BYTES = 256 << 20
N_PROBES = 3


def ids_hash(ids: Sequence[int]) -> str:
    """SHA-256 of token ids as little-endian u32."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()


@dataclass(slots=True)
class Recorder:
    """Follows one generation: an ``Observer`` of the engine. Make it right before the generation is submitted.

    ``passes``: (start, end, position, n_tokens, n_batch, n_outputs) of every step, nanoseconds of ``time.perf_counter_ns``.
    """

    before: Trace
    start_ns: int = 0
    end_ns: int = 0
    start_utc_ns: int = 0
    end_utc_ns: int = 0
    passes: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    usage: tuple[resource.struct_rusage, ...] = ()
    after: Trace | None = None
    held: Memory | None = None

    def begin(self, ns: int) -> None:
        """Note the clocks of the submission."""
        self.start_ns, self.start_utc_ns = ns, time.time_ns()
        self.usage = (resource.getrusage(resource.RUSAGE_SELF),)

    def step(self, start_ns: int, end_ns: int, position: int, n_tokens: int, n_batch: int, n_outputs: int) -> None:
        """Note one step."""
        self.passes.append((start_ns, end_ns, position, n_tokens, n_batch, n_outputs))

    def end(self, trace: Trace) -> None:
        """Note the clocks and counters of the end."""
        self.end_ns, self.end_utc_ns = time.perf_counter_ns(), time.time_ns()
        self.usage = (*self.usage, resource.getrusage(resource.RUSAGE_SELF))
        self.after, self.held = trace, memory()

    def counts(self) -> Trace:
        """What was counted between the two. Errors: NumericsError if other generations ran in the same steps, or none did."""
        after = self.after
        if after is None or not self.passes:
            raise NumericsError("no receipt", where="the run", expected="a finished generation", got="none")
        counted = after.since(self.before)
        if counted.n_steps != len(self.passes) or counted.n_tokens != sum(p[3] for p in self.passes):
            raise NumericsError("no receipt", where="the run", expected="no other generation beside it", got="several")
        return Trace(counted.n_steps, counted.n_tokens, counted.wall_ns, _merged(c for c in counted.counts if c.calls))


def _merged(counts: Iterable[StepCount]) -> tuple[StepCount, ...]:
    """One row for each step name and kernel: a back end without fusion runs several steps of one name in a layer."""
    rows: dict[tuple[str, str], StepCount] = {}
    for c in counts:
        have = rows.get((c.step, c.kernel))
        if have is not None:
            c = StepCount(c.step, c.kernel, have.calls + c.calls, have.macs + c.macs, have.macs_skipped + c.macs_skipped,
                          have.bytes + c.bytes, have.ns + c.ns)  # fmt: skip
        rows[c.step, c.kernel] = c
    return tuple(rows.values())


def recorder(model: Model) -> Recorder:
    """A recorder of the next generation of this model."""
    return Recorder(model.engine.executor.trace())


def bandwidth(model: Model) -> dict[str, Any] | None:
    """What this machine reads from memory now with the model's threads, in samples; None for a back end without native code."""
    if model.plan.backend != "cpu":
        return None
    from tritium.backends.cpu import read_bandwidth

    samples = [round(read_bandwidth(model.n_threads, PROBE_BYTES), 3) for _ in range(N_PROBES)]
    return {
        "n_threads": model.n_threads,
        "nbytes": PROBE_BYTES,
        "samples_gb_per_s": samples,
        "median_gb_per_s": median(samples),
    }


def build_receipt(
    model: Model,
    result: GenerationResult,
    run: Recorder,
    params: SamplingParams,
    *,
    machine: Mapping[str, Any],
    probe: Mapping[str, Any] | None,
    repeats: Sequence[GenerationResult] = (),
) -> dict[str, Any]:
    """The receipt of one generation.

    ``result`` is the recorded one, ``repeats`` further runs of the same prompt and parameters, ``machine`` the facts of
    ``bench.machine`` with their caches as mappings, ``probe`` what ``bandwidth`` returned in the same minute.
    Errors: NumericsError for a run that was cancelled, or computed nothing, or shared its steps with another.
    """
    trace = run.counts()
    if result.finish_reason not in ("stop", "length") or not result.token_ids:
        raise NumericsError("no receipt", where="the run", expected="a finished generation", got=result.finish_reason)
    if model.plan.backend == "null" or not trace.counts:
        raise NumericsError("no receipt", where="the run", expected="a back end that computes", got=model.plan.backend)
    n = len(result.token_ids)
    times = _running_sum(result.token_ns)
    everything = (result, *repeats)
    outcomes = {(r.token_ids, r.logits_sha256) for r in everything}
    tensors = model.file.fingerprints(model.n_threads)
    found = [registry.find(c.kernel) for c in trace.counts]
    is_known = all(e is not None and e.status == "current" and e.kind != "mock" for e in found)
    is_greedy_full = result.logits_sha256 is not None
    return {
        "schema_version": SCHEMA_VERSION,
        "timestamp": _rfc3339(run.start_utc_ns),
        "compute_path": "real" if is_known else "mock",
        "backend": model.plan.backend,
        "deterministic": len(everything) > 1 and len(outcomes) == 1 and is_greedy_full,
        "tokens_requested": _requested(model, result, params),
        "tokens_generated": n,
        "tokens_per_second": round((n - 1) / (times[-1] - times[0]) * 1e9, 3) if n > 1 else None,
        "prefill_ms": round(times[0] / 1e6, 6),
        "kernels": list(dict.fromkeys(c.kernel for c in trace.counts)),
        "environment": _environment(machine, params),
        "model": {"path": _model_name(model), "sha256": (digest := model.file.sha256())},
        "evidence": {
            "version": EVIDENCE_VERSION,
            "run": _run(model, result, run, times, params),
            "sampling": _sampling(params),
            "repeats": [
                {
                    "output_sha256": ids_hash(r.token_ids),
                    "logits_sha256": r.logits_sha256,
                    "n_tokens": len(r.token_ids),
                    "decode_ns": r.decode_ns,
                }
                for r in everything
            ],
            "stages": _stages(trace, run, times),
            "model": {
                "sha256": digest,
                "nbytes": model.file.nbytes,
                "tensors_sha256": jcs.digest(tensors),
                "config": _config(model),
                "tensors": tensors,
            },
            "plan": _plan(model),
            "ledger": _ledger(trace, model.plan, run),
            "machine": _machine(machine, model.plan.backend),
            "build": _build(),
            "bandwidth": probe,
        },
    }


def _model_name(model: Model) -> str:
    """The path as it was given; the model inside the package has its name."""
    from tritium.engine.model import DEMO, resolve_model

    try:
        return DEMO if model.path == resolve_model(DEMO) else str(model.path)
    except FileNotFoundError:
        return str(model.path)


def _requested(model: Model, result: GenerationResult, params: SamplingParams) -> int:
    room = model.max_context - result.prompt_tokens
    return room if params.max_tokens is None else min(room, params.max_tokens)


def _environment(machine: Mapping[str, Any], params: SamplingParams) -> dict[str, str]:
    """Names of old in their old meaning; what is set and has an effect stands here as it was set."""
    return {
        "BITNET_VERSION": tritium.__version__,
        "OS": f"{machine['os']}-{machine['architecture']}",
        "PYTHON_VERSION": str(machine["python"]),
        **env.recorded(),
    }


def _run(
    model: Model, result: GenerationResult, run: Recorder, times: Sequence[int], params: SamplingParams
) -> dict[str, Any]:
    first, last = run.usage
    return {
        "threads": model.n_threads,
        "started": _rfc3339(run.start_utc_ns),
        "ended": _rfc3339(run.end_utc_ns),
        "wall_ns": run.end_ns - run.start_ns,
        "user_ns": round((last.ru_utime - first.ru_utime) * 1e9),
        "system_ns": round((last.ru_stime - first.ru_stime) * 1e9),
        "peak_rss_bytes": run.held.peak_bytes if run.held else 0,
        "anonymous_bytes": run.held and run.held.anonymous_bytes,
        "file_backed_bytes": run.held and run.held.file_backed_bytes,
        "major_faults": last.ru_majflt - first.ru_majflt,
        "involuntary_switches": last.ru_nivcsw - first.ru_nivcsw,
        "n_prompt": result.prompt_tokens,
        "n_cached": result.n_cached,
        "max_tokens": _requested(model, result, params),
        "prompt_ids": list(result.prompt_ids),
        "prompt_sha256": ids_hash(result.prompt_ids),
        "token_ids": list(result.token_ids),
        "output_sha256": ids_hash(result.token_ids),
        "logits_sha256": result.logits_sha256,
        "finish_reason": result.finish_reason,
        "finish_detail": result.finish_detail,
        "end_ids": sorted(model.tokenizer.stop_ids),
        "ignore_eos": params.ignore_eos,
        "token_ns": list(times),
        "passes": [
            {"start_ns": start - run.start_ns, "ns": end - start, "position": position, "n_tokens": n, "n_outputs": n_out}
            for start, end, position, n, _, n_out in run.passes
        ],
    }  # fmt: skip


def _sampling(p: SamplingParams) -> dict[str, Any]:
    names = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "frequency_penalty",
             "presence_penalty")  # fmt: skip
    return {
        **{name: getattr(p, name) for name in names},
        "seed": str(p.seed),
        "logit_bias": [f"{token}={bias!r}" for token, bias in sorted(p.logit_bias.items())],
        "stop": list(p.stop),
        "stop_ids": [int(token) for token in p.stop_ids],
    }


def _stages(trace: Trace, run: Recorder, times: Sequence[int]) -> list[dict[str, Any]]:
    """Time by phase: embed, forward and logits as the executor counted them; sample is from a step's end to its token."""
    ns = dict.fromkeys(("embed", "forward", "logits", "sample"), 0)
    for c in trace.counts:
        ns[STAGES.get(_op(c), "forward")] += c.ns
    ends = [end - run.start_ns for _, end, _, _, _, n_outputs in run.passes if n_outputs]
    ns["sample"] = sum(t - end for t, end in zip(times, ends, strict=True))
    return [{"name": name, "ns": t, "percent": round(100 * t / times[-1], 3)} for name, t in ns.items()]


def _op(count: StepCount) -> str:
    entry = registry.find(count.kernel)
    return entry.op if entry is not None else "unknown"


def _config(model: Model) -> dict[str, Any]:
    names = ("architecture", "vocab_size", "n_layers", "d_model", "d_ff", "n_heads", "n_kv_heads", "head_dim", "tied_head",
             "act_bits")  # fmt: skip
    return {name: getattr(model.config, name) for name in names}


def _plan(model: Model) -> dict[str, Any]:
    plan = model.plan
    return {
        "graph_hash": plan.graph_hash,
        "hash": plan.hash,
        "profile": plan.profile,
        "profile_hash": PROFILE_HASH,
        "max_context": plan.max_context,
        "residents": [
            {"tensors": list(r.tensors), "layout": r.layout, "rows": r.rows, "cols": r.cols, "nbytes": r.nbytes}
            for r in plan.residents
        ],
    }


def _ledger(trace: Trace, plan: Plan, run: Recorder) -> dict[str, Any]:
    families = {name: dict.fromkeys(("calls", "macs", "macs_skipped", "bytes", "ns"), 0)
                for name in ("body", "attention", "head", "other")}  # fmt: skip
    quantized = 0
    for c in trace.counts:
        entry = registry.find(c.kernel)
        family = FAMILIES.get(_op(c), "other")
        for name, total in families[family].items():
            families[family][name] = total + getattr(c, name)
        if family == "body" and entry is not None and entry.kind in ("quantized", "gpu"):
            quantized += c.macs + c.macs_skipped
    body = families["body"]["macs"] + families["body"]["macs_skipped"]
    work = {op: [0, 0] for op in ("logits_projection", "rescore")}
    for c in trace.counts:
        if _op(c) in work:
            work[_op(c)][0] += c.macs
            work[_op(c)][1] += c.macs_skipped
    width = _width(plan)
    full, rescored, excluded = (n // width for n in (work["logits_projection"][0], *work["rescore"]))
    return {
        "n_steps": trace.n_steps,
        "n_tokens": trace.n_tokens,
        "wall_ns": trace.wall_ns,
        "steps": [
            {"step": c.step, "kernel": c.kernel, "calls": c.calls, "macs": c.macs, "macs_skipped": c.macs_skipped,
             "bytes": c.bytes, "ns": c.ns}
            for c in trace.counts
        ],
        "families": [{"family": name, **work} for name, work in families.items()],
        "head_rows": {"screened": rescored + excluded, "rescored": rescored, "full": full},
        "quantized_fraction": round(quantized / body, 6) if body else 0,
    }  # fmt: skip


def _width(plan: Plan) -> int:
    return next(int(step.attrs["k"]) for step in plan.steps if step.op == "logits_projection")


def _machine(machine: Mapping[str, Any], backend: str) -> dict[str, Any]:
    from tritium.gates import read_policy

    names = (
        "os",
        "kernel",
        "architecture",
        "cpu",
        "virtual",
        "n_cpus",
        "n_cores",
        "cpu_quota",
        "caches",
        "memory_bytes",
    )
    known = {flag for isa in read_policy().isas.values() for flag in isa["flags"]}
    return {
        **{name: machine[name] for name in names},
        "caches": [dict(cache) for cache in machine["caches"]],
        "cpu_flags": sorted({flag for flag in machine["flags"] if flag in known}),
        "isas": _isas(),
    }


def _isas() -> list[dict[str, str]]:
    from tritium.backends.cpu import isa_status

    return [{"name": name, "status": status} for name, status in isa_status()]


def _build() -> dict[str, Any]:
    from tritium.backends.cpu import build_info

    compiler, flags, architecture = build_info()
    build = {"version": tritium.__version__, "compiler": compiler, "flags": flags, "architecture": architecture}
    source = read_source()
    return build if source is None else {**build, "commit": source.commit, "dirty": source.is_dirty}


def _running_sum(values: Iterable[int]) -> list[int]:
    out: list[int] = []
    for value in values:
        out.append((out[-1] if out else 0) + int(value))
    return out


def _rfc3339(utc_ns: int) -> str:
    seconds, ns = divmod(utc_ns, 10**9)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ns // 1000:06d}Z"
