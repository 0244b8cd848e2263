"""Do the same tokens come out again? A receipt's prompt, generated once more from the model file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritium.engine.model import load
from tritium.engine.sampling import SamplingParams
from tritium.errors import GateError


def replay(model: str, backend: str, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Generate a receipt's greedy tokens on ``backend``; what was compared, or NOT MEASURED for another model, for sampling
    or for a batch.

    Errors: GateError where a token or the last logits differ; those of ``load``.
    """
    evidence = receipt["evidence"]
    run, sampling = evidence["run"], evidence["sampling"]
    unlike = {"status": "NOT MEASURED", "backend": None}
    if (
        sampling["temperature"] != 0
        or run["n_cached"]
        or "batch" in evidence
        or sampling["stop"]
        or sampling["stop_ids"]
    ):
        return unlike
    with load(model, backend=backend, prefix_cache=False) as opened:
        if opened.file.sha256() != evidence["model"]["sha256"]:
            return unlike
        params = SamplingParams(max_tokens=run["max_tokens"], ignore_eos=run["ignore_eos"])
        result = opened.generate(run["prompt_ids"], params, measure=True)
    found = {"tokens": list(result.token_ids) == run["token_ids"]}
    if run["logits_sha256"] is not None and result.logits_sha256 is not None:
        found["logits"] = result.logits_sha256 == run["logits_sha256"]
    wrong = [name for name, is_equal in found.items() if not is_equal]
    if wrong:
        raise GateError("the replay gives another result", where=f"{backend} back end", got=", ".join(wrong))
    return {"status": "PASS", "backend": backend, "n_tokens": len(result.token_ids), "equal": sorted(found)}
