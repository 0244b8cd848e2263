"""Build a receipt from what the executor counted and the clock showed; nothing in it is declared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

import tritium
from tritium import env
from tritium.errors import NumericsError
from tritium.evidence.accounts import ledger, stages
from tritium.evidence.provenance import build_facts, machine_facts, tokenizer_sha256
from tritium.evidence.recorder import Recorder
from tritium.evidence.trace import TRACE_FORMAT, ids_hash, trace_leaves, trace_root
from tritium.profile import PROFILE_HASH
from tritium.receipts import jcs, registry
from tritium.receipts.schema import EVIDENCE_VERSION, SCHEMA_VERSION

if TYPE_CHECKING:
    from tritium.engine.generate import GenerationResult
    from tritium.engine.model import Model
    from tritium.engine.sampling import SamplingParams

PROBE_BYTES = 256 << 20
N_PROBES = 3


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
    missing = model.engine.executor.knocked_out
    if missing is not None:
        raise NumericsError("no receipt", where="the run", expected="all kernels", got=f"none of {missing}")
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
            "trace": _trace(model, result, run),
            "ledger": ledger(trace, model.plan, run),
            "machine": machine_facts(machine, model.plan.backend),
            "build": build_facts(),
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


def _trace(model: Model, result: GenerationResult, run: Recorder) -> dict[str, Any] | None:
    """What the run commits to: the root over a leaf for each forwarded position. None for a run without a trace."""
    leaves = trace_leaves(
        run.run_id, run.nonce, (*result.prompt_ids, *result.token_ids), result.n_cached, result.prompt_tokens, run.columns,
        run.hidden,
    )  # fmt: skip
    if leaves is None:
        return None
    return {
        "format": TRACE_FORMAT,
        "run": run.run_id.hex(),
        "nonce": run.nonce,
        "first": result.n_cached,
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


def _running_sum(values: Iterable[int]) -> list[int]:
    out: list[int] = []
    for value in values:
        out.append((out[-1] if out else 0) + int(value))
    return out


def _rfc3339(utc_ns: int) -> str:
    seconds, ns = divmod(utc_ns, 10**9)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ns // 1000:06d}Z"
