"""Data that crosses module borders: plain, typed, frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a model file.

    ``shape`` is row-major, (out_features, in_features) for a matrix: the reverse of GGUF's order.
    ``layout`` names a row of ``tritium.layouts.LAYOUTS``; ``offset`` counts bytes from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    layout: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Hyperparameters of a decoder, in the glossary's names."""

    architecture: str
    vocab_size: int
    n_layers: int
    d_model: int
    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    rope_style: Literal["half", "interleaved"]
    activation: Literal["relu2", "silu"]
    sub_norms: bool
    tied_head: bool
    max_context: int
    act_bits: int = 8
    rope_factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of one step: T tokens of any mix of sequences.

    tokens (T,) i32; positions (T,) i32, absolute; slots (T,) i32, the row of ``block_tables`` that the token's sequence owns;
    block_tables (S, B) i32, the cache block of each sequence's positions, ``positions // kv_block`` indexing a row;
    outputs (n,) i32, ascending indices into the T tokens whose logits are asked for;
    top_k: 0 asks for full logits, k > 0 for the k best candidates of each output;
    temperatures (n,) f32: with candidates, those at which draws from an output need the weight of all others, 0 where none do.

    Tokens of one sequence stand in ascending order of position, and their earlier positions are in the cache or in this batch.
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    slots: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    outputs: NDArray[np.int32]
    top_k: int = 0
    temperatures: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """The output of one step, one row for each requested output.

    Full request: ``logits`` (n, vocab_size) f32. Candidate request: ``ids`` (n, k) i32 and ``values`` (n, k) f32, by descending
    logit, ties by ascending id. The arrays may be views that the next step overwrites.

    A traced step gives hashes, too: ``columns`` (T, 32) u8, of each token the SHA-256 of the digests of its quantized rows in the
    graph's order, a digest being SHA-256 of a row's codes and its scale as float32; ``hidden`` (n, 32) u8, the SHA-256 of the row
    that the head multiplies, float32; all little-endian. ``rows`` (T, bytes) u8: the quantized rows themselves, where asked for.

    A candidate request with temperatures is answered by full logits, or by candidates and ``rest`` (n, 3) f32: an upper and a
    lower bound of Σ exp((l − best) / temperature) over all ids that are no candidates, and how many candidates are sure to be
    the best of all; then ``project`` gives the full logits (vocab_size,) of one output, until the next step.

    ``draw(output, position, top_k, temperature, top_p, min_p, seed, sequence, vocab_size)``, where a back end has it, gives the
    token that an output's candidates decide on by the rules of ``SamplingParams``, or −1: what is no candidate may change it, or
    the best logit is not finite. ``top_k`` 0 needs ``rest``.
    """

    logits: NDArray[np.float32] | None = None
    ids: NDArray[np.int32] | None = None
    values: NDArray[np.float32] | None = None
    columns: NDArray[np.uint8] | None = None
    hidden: NDArray[np.uint8] | None = None
    rows: NDArray[np.uint8] | None = None
    rest: NDArray[np.float32] | None = None
    project: Callable[[int], NDArray[np.float32]] | None = None
    draw: Callable[..., int] | None = None


TraceLevel = Literal["off", "hashes", "rows"]
"""What a step tells beside its results: nothing, the hashes of its activations, or its quantized rows as well."""


@dataclass(frozen=True, slots=True)
class StepCount:
    """What the executor counted for one kernel of one plan step, summed over calls."""

    step: str
    kernel: str
    calls: int
    macs: int
    macs_skipped: int
    bytes: int
    ns: int


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Counters of all steps since the executor was made or last reset.

    ``kernels``: (plan step, kernel) of each row of ``values`` (n, 5) i64, a ``StepCount``'s numbers. Traces are taken between
    tokens whose times are measured: objects are made of them later, by ``counts``.
    """

    n_steps: int
    n_tokens: int
    wall_ns: int
    kernels: Sequence[tuple[str, str]]
    values: NDArray[np.int64]

    @property
    def counts(self) -> tuple[StepCount, ...]:
        """The rows."""
        return tuple(StepCount(*names, *row) for names, row in zip(self.kernels, self.values.tolist(), strict=True))

    @property
    def n_bytes(self) -> int:
        """The bytes of all rows."""
        return int(self.values[:, 3].sum())

    def since(self, earlier: Trace) -> Trace:
        """What was counted after ``earlier``, a trace of the same executor without a reset in between."""
        return Trace(
            self.n_steps - earlier.n_steps,
            self.n_tokens - earlier.n_tokens,
            self.wall_ns - earlier.wall_ns,
            self.kernels,
            self.values - earlier.values,
        )


@dataclass(frozen=True, slots=True)
class Pass:
    """One step of the engine: ``n_tokens`` forwarded, ``n_outputs`` rows of logits.

    ``step_ns``: the call of the executor, ``trace`` what it counted in it; ``rest_ns``: scheduling before it, and choosing the
    tokens and making their text after it.
    """

    n_tokens: int
    n_outputs: int
    step_ns: int
    rest_ns: int
    trace: Trace
