"""The native core: kernels, the executor of plans, weight repacking."""

from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray


class CodeError(ValueError):
    """
    A byte that holds no ternary code. args = (text, part, byte), also as attributes part and offset.
    """

def isas() -> list[str]:
    """
    Instruction sets that run here, best first: compiled in, in the CPU, passed by the self-test.
    """

def isa_status() -> list[tuple[str, str]]:
    """
    (name, status) of every instruction set: "ok", "not compiled", "cpu lacks it", "self-test failed" or
    "illegal instruction".
    """

def kernels() -> list[tuple[str, str, str, str, int, int]]:
    """
    (id, op, layout, isa, t_min, t_max) of every kernel that runs here; t_max 0 is unbounded.
    """

def build_info() -> tuple[str, str, str]:
    """(compiler, flags, architecture) of this build."""

def pack_i2s(parts: Sequence[tuple[Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], int, int, float, str]], n_threads: int = 1, layout: str = 'i2s') -> Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C')]:
    """
    Repack ternary tensors into panels of layout "i2s" or "tq1", stacked, each padded to 16 rows;
    of "i2s_groups" with the scales of their blocks.

    parts: (file bytes, rows, cols, scale, dialect), all of one width. Dialects: I2_S's "128", "64" and "4row", with the
    32 bytes of tail, "tq1_0" and "tq2_0".
    Errors: CodeError for a code 3; ValueError for a size that does not follow from the shape.
    """

def pack_i2s_rows(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], rows: int, cols: int, scale: float, dialect: str, n_threads: int = 1) -> Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C')]:
    """
    Repack a ternary tensor into I2_S in blocks of 128. Errors: as pack_i2s.
    """

def pack_i2s_columns(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], rows: int, cols: int, scale: float, dialect: str, n_threads: int = 1) -> Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C')]:
    """Repack a ternary tensor into columns. Errors: as pack_i2s."""

def pack_trits(parts: Sequence[tuple[Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], float]], n_threads: int = 1, layout: str = 'i2s') -> Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C')]:
    """
    Pack trits into panels of layout "i2s" or "tq1", stacked, each padded to 16 rows.

    parts: (trits (rows, cols) i8 in {-1, 0, 1}, scale), all of one width. Errors: CodeError for another value.
    """

def pack_plane(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], layout: str, rows: int, cols: int, n_threads: int = 1) -> Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C')]:
    """
    The plane44 layout of a head of layout "f32", "f16", "bf16", "q8_0" or "q6_k": rows of 8 bits in two halves, with
    scales and bounds on what they leave out.

    Errors: ValueError for another layout or a size that does not follow from the shape.
    """

def all_finite(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], layout: str, n_threads: int = 1) -> bool:
    """
    True if every number, of layout "f32", "f16" or "bf16", is finite. Errors: ValueError for another layout.
    """

def sha256_ways() -> list[str]:
    """
    Names of the ways to SHA-256 that this processor has, the fastest first.
    """

def sha256_each(arrays: Sequence[Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)]], n_threads: int = 1, way: str = '') -> list[bytes]:
    """
    SHA-256 of each of several arrays of bytes, by the fastest way or a named one. Errors: ValueError for a way that is not there.
    """

def sha256(data: bytes, way: str = '') -> bytes:
    """
    SHA-256 of some bytes, by the fastest way or a named one. Errors: ValueError for a way that is not there.
    """

def draw_weights(logits: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], first: float, temperature: float) -> Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C')]:
    """
    Integer weights (n,) i64 of a draw by logits (n,) f32, as tritium.engine.sampling defines them; first: the greatest of all.
    """

def read_bandwidth(n_threads: int, nbytes: int) -> float:
    """
    Gigabytes (10^9) a second that n_threads read together from a buffer of nbytes: the median of 7 passes.
    """

def int8_peak(isa: str, n_threads: int) -> float:
    """
    Billions of multiply-accumulates a second that n_threads reach together with the instruction set's product of int8, on
    registers alone: the best of 15 passes. Errors: ValueError for an instruction set that does not run here.
    """

def f32_peak(isa: str, n_threads: int) -> float:
    """The same of float32, each product rounded before it is added."""

class Request:
    """
    The arrays of a step. It may be run again after their elements, but not their shapes, have changed.
    """

    def __init__(self, tokens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], positions: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], slots: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], block_tables: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], outputs: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], top_k: int, logits: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None = None, ids: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')] | None = None, values: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None = None, columns: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu')] | None = None, hidden: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu')] | None = None, rows: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu')] | None = None, temperatures: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, rest: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None = None) -> None:
        """
        Shapes: tokens, positions, slots (T,) i32, block_tables (S, B) i32, outputs (n,) i32 ascending; written: logits
        (n, vocab) f32, ids (n, top_k) i32, values (n, top_k) f32; of a trace, columns (T, 32) u8, hidden (n, 32) u8,
        rows (T, trace_row_bytes) u8; for temperatures (n,) f32, rest (n, 3) f32: an upper and a lower bound of the weight of
        what is no candidate over the best one's, and how many are sure; each where given. Errors: ValueError for another
        shape.
        """

    def draw(self, arg0: int, arg1: int, arg2: int, arg3: float, arg4: float, arg5: float, arg6: int, arg7: int, arg8: int, /) -> int:
        """
        The token that candidates of the step give, or -1 where they do not decide; tritium.types.StepResult tells.

        Arguments: output, position, top_k, temperature, top_p, min_p, seed, sequence, vocab_size. Errors: ValueError for an output
        or a number of candidates that was not asked for.
        """

class Program:
    """
    A plan with its weights, arena, cache and threads. One step at a time; a second thread's step raises RuntimeError.
    """

    def __init__(self, plan: bytes, residents: Sequence[Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)]], kv_blocks: int, n_threads: int) -> None:
        """
        Parse and check a binary plan (tritium.ir.encode_plan), bind its kernels, keep the residents alive.

        Errors: ValueError for a malformed plan, a kernel that does not run here or a resident of a wrong size; MemoryError.
        """

    def step(self, arg: Request, /) -> int:
        """
        Run the plan on the request's tokens; the interpreter's lock is released.

        Returns 0, or nonzero if a number went out of range: failure() tells. Errors: ValueError for a request that does not fit
        the plan; RuntimeError while another thread is in a step.
        """

    def project(self, output: int, logits: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')]) -> None:
        """
        Write all logits (vocab,) f32 of one output of the last step. Errors: ValueError if that step had no such output.
        """

    def failure(self) -> tuple[str, int, int]:
        """
        What the last failed step reported: (code, step, row), code "not_finite", "kv_overflow" or "none".
        """

    def counters(self) -> Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C')]:
        """
        Of each step and kernel choice since the last reset, as rows of (n, 7) i64: step, choice, calls, macs, macs_skipped,
        bytes, ns.
        """

    def totals(self) -> tuple[int, int, int]:
        """(steps, tokens, nanoseconds inside step) since the last reset."""

    def reset_counters(self) -> None:
        """Set all counters to zero."""

    def copy_block(self, source: int, target: int) -> None:
        """
        Copy a cache block in all layers. Errors: ValueError for a block out of range.
        """

    def knock_out(self, kernel: str) -> int:
        """
        Let the kernel of this id do nothing from now on, and all others their work; "" brings all back. Returns the number of
        steps' choices that it was in.
        """

    def buffer(self, index: int) -> NDArray:
        """A writable view (rows, width) of a buffer of the arena."""

    def arena(self) -> Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C')]:
        """A writable view of the whole arena."""

    def kv(self, layer: int) -> tuple[object, object]:
        """
        Writable views of a layer's cache: as float16 bits keys (blocks, heads, head_dim, kv_block) and values (blocks, heads,
        kv_block, head_dim); of an int8 cache bytes (blocks, heads, (head_dim + 4)·kv_block), codes in that order, then float32
        scales.
        """

    @property
    def trace_row_bytes(self) -> int:
        """Bytes of a token's quantized rows: codes and scale of each."""

    @property
    def n_shared_loops(self) -> int:
        """Loops since the start that the threads shared: each is a barrier."""

    @property
    def n_threads(self) -> int:
        """Workers, the caller included."""
