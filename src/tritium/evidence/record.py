"""Build a receipt from what the executor counted and the clock showed; nothing in it is declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, Any

import tritium
from tritium import env
from tritium.errors import NumericsError
from tritium.evidence.accounts import decoding, ledger, stages
from tritium.evidence.provenance import build_facts, machine_facts, tokenizer_sha256
from tritium.evidence.recorder import RecordedRun, Recorder
from tritium.evidence.trace import TRACE_FORMAT, ids_hash, outputs_hash, trace_leaves, trace_root
from tritium.profile import PROFILE_HASH
from tritium.receipts import jcs, registry
from tritium.receipts.schema import EVIDENCE_VERSION, SCHEMA_VERSION
from tritium.types import Trace

if TYPE_CHECKING:
    from tritium.engine.generation import GenerationResult
    from tritium.engine.model import Model
    from tritium.engine.sampling import SamplingParams

PROBE_BYTES = 256 << 20
N_PROBES = 3


def bandwidth(model: Model, n_probes: int = N_PROBES) -> dict[str, Any] | None:
    """What this machine reads from memory now with the model's threads, in samples; None for a back end without native code."""
    if model.plan.backend != "cpu":
        return None
    from tritium.backends.cpu import read_bandwidth

    samples = [round(read_bandwidth(model.n_threads, PROBE_BYTES), 3) for _ in range(n_probes)]
    return {
        "n_threads": model.n_threads,
        "nbytes": PROBE_BYTES,
        "samples_gb_per_s": samples,
        "median_gb_per_s": median(samples),
    }


def fingerprints(model: Model) -> list[dict[str, Any]]:
    """``GGUFFile.fingerprints`` of the model's file, by native code where its back end has that."""
    if model.plan.backend != "cpu":
        return model.file.fingerprints(model.n_threads)
    from tritium.backends.cpu import sha256_each

    return model.file.fingerprints(model.n_threads, sha256_each)


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
    """The receipt of one generation: ``build_batch_receipt`` of a single sequence."""
    return build_batch_receipt(
        model, [result], [run], params, machine=machine, probe=probe, repeats=[[again] for again in repeats]
    )


def build_batch_receipt(
    model: Model,
    results: Sequence[GenerationResult],
    recorders: Sequence[Recorder],
    params: SamplingParams,
    *,
    machine: Mapping[str, Any],
    probe: Mapping[str, Any] | None,
    repeats: Sequence[Sequence[GenerationResult]] = (),
) -> dict[str, Any]:
    """The receipt of sequences that were submitted together.

    ``results`` are the recorded ones with their recorders, ``repeats`` further runs of the same prompts and parameters,
    ``machine`` the facts of ``bench.machine`` with their caches as mappings, ``probe`` what ``bandwidth`` returned in the same
    minute.
    Errors: NumericsError for a run that was cancelled, or computed nothing, or shared its steps with another; for sequences
    that never were in one step.
    """
    run = RecordedRun(recorders)
    trace = run.counts()
    _check_run(model, results, run, trace)
    times = run.times(results)
    n, ns = decoding(times)
    everything = (results, *repeats)
    outcomes = {tuple((r.token_ids, r.logits_sha256) for r in each) for each in everything}
    tensors = fingerprints(model)
    found = [registry.find(c.kernel) for c in trace.counts]
    is_known = all(e is not None and e.status == "current" and e.kind != "mock" for e in found)
    is_greedy_full = all(r.logits_sha256 is not None for r in results)
    sequences = [_sequence(model, r, t, params) for r, t in zip(results, times, strict=True)]
    batch = {"batch": {"n_sequences": len(sequences), "others": sequences[1:]}} if len(sequences) > 1 else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "timestamp": _rfc3339(run.start_utc_ns),
        "compute_path": "real" if is_known else "mock",
        "backend": model.plan.backend,
        "deterministic": len(everything) > 1 and len(outcomes) == 1 and is_greedy_full,
        "tokens_requested": sum(each["max_tokens"] for each in sequences),
        "tokens_generated": sum(len(r.token_ids) for r in results),
        "tokens_per_second": round(n / ns * 1e9, 3) if n else None,
        "prefill_ms": round(max(t[0] for t in times) / 1e6, 6),
        "kernels": list(dict.fromkeys(c.kernel for c in trace.counts)),
        "environment": _environment(machine, params),
        "model": {"path": _model_name(model), "sha256": (digest := model.file.sha256())},
        "evidence": {
            "version": EVIDENCE_VERSION,
            "run": {**_run(model, run, params, is_batch=bool(batch)), **sequences[0]},
            **batch,
            "sampling": _sampling(params),
            "repeats": [_repeat(each) for each in everything],
            "stages": stages(trace, run, times),
            "model": {
                "sha256": digest,
                "nbytes": model.file.nbytes,
                "tokenizer_sha256": tokenizer_sha256(model.file),
                "tensors_sha256": jcs.digest(tensors),
                "config": _config(model),
                "tensors": tensors,
            },
            "plan": _plan(model),
            "trace": _trace(results, run),
            "ledger": ledger(trace, model.plan),
            "machine": machine_facts(machine, model.plan.backend),
            "build": build_facts(),
            "bandwidth": probe,
        },
    }


def _check_run(model: Model, results: Sequence[GenerationResult], run: RecordedRun, trace: Trace) -> None:
    """Errors: NumericsError for what no receipt can be about."""
    for result in results:
        if result.finish_reason not in ("stop", "length") or not result.token_ids:
            raise NumericsError(
                "no receipt", where="the run", expected="a finished generation", got=result.finish_reason
            )
    if model.plan.backend == "null" or not trace.counts:
        raise NumericsError("no receipt", where="the run", expected="a back end that computes", got=model.plan.backend)
    missing = model.engine.executor.knocked_out
    if missing is not None:
        raise NumericsError("no receipt", where="the run", expected="all kernels", got=f"none of {missing}")
    if len(results) > 1 and all(len(p.parts) == 1 for p in run.passes):
        raise NumericsError(
            "no receipt", where="the run", expected="several sequences in a step", got="one after the other",
            hint="Their contexts do not fit the cache together",
        )  # fmt: skip


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


def _run(model: Model, run: RecordedRun, params: SamplingParams, *, is_batch: bool) -> dict[str, Any]:
    """What the sequences of a run share."""
    (first, last), held = run.usage, run.last.held
    return {
        "threads": model.n_threads,
        "started": _rfc3339(run.start_utc_ns),
        "ended": _rfc3339(run.end_utc_ns),
        "wall_ns": run.end_ns - run.start_ns,
        "user_ns": last.user_ns - first.user_ns,
        "system_ns": last.system_ns - first.system_ns,
        "peak_rss_bytes": held.peak_bytes if held else 0,
        "anonymous_bytes": held and held.anonymous_bytes,
        "file_backed_bytes": held and held.file_backed_bytes,
        "major_faults": last.major_faults - first.major_faults,
        "involuntary_switches": last.involuntary_switches - first.involuntary_switches,
        "end_ids": sorted(model.tokenizer.stop_ids),
        "ignore_eos": params.ignore_eos,
        "passes": [
            {
                "start_ns": p.start_ns - run.start_ns,
                "ns": p.end_ns - p.start_ns,
                "position": p.parts[0].position,
                "n_tokens": sum(part.n_tokens for part in p.parts),
                "n_outputs": sum(part.n_outputs for part in p.parts),
                **({"parts": [[part.sequence, part.position, part.n_tokens] for part in p.parts]} if is_batch else {}),
            }
            for p in run.passes
        ],
    }


def _sequence(model: Model, result: GenerationResult, times: Sequence[int], params: SamplingParams) -> dict[str, Any]:
    """One prompt and what followed it."""
    return {
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
        "token_ns": list(times),
    }


def _repeat(results: Sequence[GenerationResult]) -> dict[str, Any]:
    """What a run came to, and how long it decoded."""
    start = results[0].start_ns
    n, ns = decoding([list(accumulate(r.token_ns, initial=r.start_ns - start))[1:] for r in results])
    return {
        "output_sha256": outputs_hash([ids_hash(r.token_ids) for r in results]),
        "logits_sha256": outputs_hash([r.logits_sha256 for r in results]),
        "n_tokens": sum(len(r.token_ids) for r in results),
        "decode_ns": ns,
        **({"n_decoded": n} if len(results) > 1 else {}),
    }


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


def _trace(results: Sequence[GenerationResult], run: RecordedRun) -> dict[str, Any] | None:
    """What the run commits to: the root over a leaf for each forwarded position, one sequence after the other.

    None for a run without a trace.
    """
    first = run.recorders[0]
    leaves = []
    for result, r in zip(results, run.recorders, strict=True):
        ids = (*result.prompt_ids, *result.token_ids)
        made = trace_leaves(first.run_id, first.nonce, ids, result.n_cached, result.prompt_tokens, r.columns, r.hidden)
        if made is None:
            return None
        leaves += made
    return {
        "format": TRACE_FORMAT,
        "run": first.run_id.hex(),
        "nonce": first.nonce,
        "first": results[0].n_cached,
        "n_leaves": len(leaves),
        "root": trace_root(leaves).hex(),
    }


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


def _rfc3339(utc_ns: int) -> str:
    seconds, ns = divmod(utc_ns, 10**9)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ns // 1000:06d}Z"
