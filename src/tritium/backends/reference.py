"""The reference back end: each op as tritium.numerics defines it, on NumPy arrays. The definition, not a competitor."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritium import numerics
from tritium.backends import KernelRow, Program, TensorSource, refuse_layout, refuse_screen
from tritium.ir import Operand, Plan, Resident, Step
from tritium.layouts import LAYOUTS
from tritium.ops import cache_of
from tritium.types import Batch, StepResult, Trace, TraceLevel

HEAD_ROWS = 8192
_NUMPY = {"f32": np.float32, "i8": np.int8, "i16": np.int16, "i32": np.int32}


class ReferenceBackend:
    """Offers every plain op, fuses nothing, keeps weights in the file's layout."""

    name = "reference"
    fused: frozenset[str] = frozenset()
    panel_rows = 1

    def kernels(self, op: str, layout: str, attrs: Mapping[str, float]) -> tuple[KernelRow, ...]:
        """One kernel an op, for any T."""
        return (KernelRow(f"{op}_reference", 1, 0),)

    def resident_layout(self, op: str, file_layout: str) -> str:
        """The file's layout."""
        return file_layout

    def linear_layout(self, file_layout: str, n: int, k: int, weight_layout: str, *, group: int = 0) -> str:
        """The file's layout."""
        refuse_layout(weight_layout, f"back end {self.name}")
        return file_layout

    def resident_bytes(self, layout: str, rows: int, cols: int) -> int:
        """The file's bytes."""
        return int(rows * cols * LAYOUTS[layout].bits) // 8 + LAYOUTS[layout].tail_bytes

    def head_plane(self, file_layout: str, vocab: int, k: int, head_screen: str) -> str | None:
        """None: the head is read whole."""
        refuse_screen(head_screen, f"back end {self.name}")
        return None

    def sparse_layout(self, file_layout: str, n: int, k: int, *, by_columns: bool, ffn_sparsity: str) -> str | None:
        """None: matrices are read whole."""
        return None

    def program(
        self, plan: Plan, binary: bytes, source: TensorSource, n_threads: int | None, kv_blocks: int,
        store: object = None,
    ) -> Program:  # fmt: skip
        """Put the plan in memory."""
        return ReferenceProgram(plan, source, kv_blocks)


def backend() -> ReferenceBackend:
    """The back end."""
    return ReferenceBackend()


@dataclass(slots=True)
class _Count:
    calls: int = 0
    macs: int = 0
    bytes: int = 0
    ns: int = 0


class ReferenceProgram:
    """Runs a plan's steps one after the other; single-threaded."""

    n_threads = 1

    def __init__(self, plan: Plan, source: TensorSource, kv_blocks: int) -> None:
        self._plan = plan
        self._source = source
        shape = (plan.n_kv_layers, kv_blocks, plan.kv_block, plan.n_kv_heads, plan.head_dim)
        self._is_int8 = cache_of(step.op for step in plan.steps) == "int8"
        self._keys, self._values = (np.zeros(shape, np.int8 if self._is_int8 else np.float16) for _ in range(2))
        self._key_scales, self._value_scales = (np.zeros(shape[:-1], np.float32) for _ in range(2))
        self._decoded: dict[int, Any] = {}
        cos, sin = numerics.rope_tables(plan.max_context, plan.head_dim, plan.rope_theta, plan.rope_factors)
        self._rope = (cos, sin)
        self._run: dict[str, Callable[[Step, Batch], int]] = {
            "embedding": self._embedding,
            "rmsnorm": self._rmsnorm,
            "quantize": self._quantize,
            "linear": self._linear,
            "rope_kv": self._rope_kv,
            "rope_kv_int8": self._rope_kv,
            "attention": self._attention,
            "attention_int8": self._attention,
            "relu2_mul": self._gated,
            "silu_mul": self._gated,
            "add": self._add,
            "output_rows": self._output_rows,
            "logits_projection": self._logits,
            "select": self._select,
        }
        self._buffers: dict[int, NDArray[Any]] = {}
        self.reset_counts()

    def step(self, batch: Batch, trace: TraceLevel = "off") -> StepResult:
        """Run the plan on a batch."""
        began = time.perf_counter_ns()
        rows = {"tokens": len(batch.tokens), "outputs": len(batch.outputs)}
        top_k = batch.top_k if batch.temperatures is None else 0
        self._buffers = {
            i: np.zeros((rows[b.domain], max(b.width, top_k)), _NUMPY[b.dtype])
            for i, b in enumerate(self._plan.buffers)
        }
        result = StepResult()
        quantized: list[tuple[NDArray[Any], NDArray[np.float32]]] = []
        for step, count in zip(self._plan.steps, self._counts, strict=True):
            if self._plan.buffers[step.outputs[0].buffer].domain == "outputs" and not rows["outputs"]:
                continue
            if step.op == "select" and not top_k:
                continue
            start = time.perf_counter_ns()
            count.macs += self._run[step.op](step, batch)
            count.calls += 1
            count.ns += time.perf_counter_ns() - start
            if step.op == "quantize" and trace != "off":
                width = int(step.attrs["k"])
                quantized.append((self._view(step.outputs[0], width).copy(), self._view(step.outputs[1], 1).copy()))
        if rows["outputs"]:
            last = self._plan.steps[-1]
            if top_k:
                ids, values = (self._view(o, top_k) for o in last.outputs)
                result = StepResult(ids=ids, values=values)
            else:
                result = StepResult(logits=self._view(last.inputs[0], self._plan.vocab_size))
        if trace != "off":
            result = self._traced(result, quantized, trace)
        self._n_steps += 1
        self._n_tokens += rows["tokens"]
        self._wall_ns += time.perf_counter_ns() - began
        return result

    def _traced(
        self, result: StepResult, quantized: list[tuple[NDArray[Any], NDArray[np.float32]]], trace: TraceLevel
    ) -> StepResult:
        """The result with the hashes of what was quantized and of what the head multiplied."""
        tokens = [[q.tobytes() + scale.tobytes() for q, scale in zip(*pair, strict=True)] for pair in quantized]
        columns = [_sha256(b"".join(_sha256(row) for row in rows)) for rows in zip(*tokens, strict=True)]
        head = next(step for step in self._plan.steps if step.op == "logits_projection")
        hidden = [_sha256(row.tobytes()) for row in self._view(head.inputs[0], int(head.attrs["k"]))]
        joined = None
        if trace == "rows":
            joined = np.stack([np.frombuffer(b"".join(rows), np.uint8) for rows in zip(*tokens, strict=True)])
        return replace(result, columns=_digests(columns), hidden=_digests(hidden), rows=joined)

    def counts(self) -> Trace:
        """Steps, tokens, wall nanoseconds, counters a step."""
        kernels = [(_name(s), s.choices[0].kernel) for s in self._plan.steps]
        values = np.array([(c.calls, c.macs, 0, c.bytes, c.ns) for c in self._counts], np.int64)
        return Trace(self._n_steps, self._n_tokens, self._wall_ns, kernels, values)

    def reset_counts(self) -> None:
        """Set all counters to zero."""
        self._counts = [_Count() for _ in self._plan.steps]
        self._n_steps = self._n_tokens = self._wall_ns = 0

    def copy_block(self, source: int, target: int) -> None:
        """Copy a cache block in all layers."""
        for kept in (self._keys, self._values, self._key_scales, self._value_scales):
            kept[:, target] = kept[:, source]

    def buffer(self, index: int) -> NDArray[Any]:
        """The rows of a buffer after the last step."""
        return self._buffers[index]

    def close(self) -> None:
        """Drop the weights."""
        self._decoded.clear()

    def _view(self, operand: Operand, width: int) -> NDArray[Any]:
        return self._buffers[operand.buffer][:, operand.column : operand.column + width]

    def _resident(self, step: Step, position: int = 0) -> Resident:
        return self._plan.residents[step.choices[0].residents[position]]

    def _tensor(self, step: Step) -> NDArray[np.float32]:
        """A norm's gamma as f32."""
        index = step.choices[0].residents[0]
        if index not in self._decoded:
            self._decoded[index] = self._unpack(self._resident(step).tensors[0])
        decoded: NDArray[np.float32] = self._decoded[index]
        return decoded

    def _unpack(self, name: str) -> NDArray[np.float32]:
        info = self._source.tensors[name]
        layout = LAYOUTS[info.layout]
        return layout.unpack(self._source.data(name), info.shape, where=name, offset=info.offset)

    def _rows(self, name: str, first: int, last: int) -> NDArray[np.float32]:
        info = self._source.tensors[name]
        layout = LAYOUTS[info.layout]
        row_bytes = layout.nbytes((1, info.shape[1]))
        data = self._source.data(name)[first * row_bytes : last * row_bytes]
        return layout.unpack(data, (last - first, info.shape[1]), where=name)

    def _embedding(self, step: Step, batch: Batch) -> int:
        out = self._view(step.outputs[0], int(step.attrs["k"]))
        name = self._resident(step).tensors[0]
        for row, token in enumerate(batch.tokens):
            out[row] = self._rows(name, int(token), int(token) + 1)[0]
        return 0

    def _rmsnorm(self, step: Step, batch: Batch) -> int:
        k = int(step.attrs["k"])
        x = self._view(step.inputs[0], k)
        self._view(step.outputs[0], k)[:] = numerics.rmsnorm(x, self._tensor(step), step.attrs["eps"])
        return 0

    def _quantize(self, step: Step, batch: Batch) -> int:
        k = int(step.attrs["k"])
        q, scale = numerics.quantize_activations(self._view(step.inputs[0], k), int(step.attrs["act_bits"]))
        self._view(step.outputs[0], k)[:] = q
        self._view(step.outputs[1], 1)[:, 0] = scale
        return 0

    def _linear(self, step: Step, batch: Batch) -> int:
        k, n = int(step.attrs["k"]), int(step.attrs["n"])
        index = step.choices[0].residents[0]
        if index not in self._decoded:
            name = self._resident(step).tensors[0]
            info = self._source.tensors[name]
            trits, scales = LAYOUTS[info.layout].trits(
                self._source.data(name), info.shape, where=name, offset=info.offset
            )
            self._decoded[index] = trits, scales if step.attrs["group"] else self._source.scale(name)
        trits, scales = self._decoded[index]
        q, scale_x = self._view(step.inputs[0], k), self._view(step.inputs[1], 1)[:, 0]
        self._view(step.outputs[0], n)[:] = numerics.ternary_linear(q, scale_x, trits, scales, int(step.attrs["group"]))
        return len(q) * k * n

    def _rope_kv(self, step: Step, batch: Batch) -> int:
        a = step.attrs
        heads, kv_heads, d = int(a["n_heads"]), int(a["n_kv_heads"]), int(a["head_dim"])
        style = "interleaved" if a["interleaved"] else "half"
        t = len(batch.tokens)
        cos, sin = (table[batch.positions] for table in self._rope)
        q = self._view(step.inputs[0], heads * d).reshape(t, heads, d)
        k = self._view(step.inputs[1], kv_heads * d).reshape(t, kv_heads, d)
        v = self._view(step.inputs[2], kv_heads * d).reshape(t, kv_heads, d)
        self._view(step.outputs[0], heads * d)[:] = numerics.apply_rope(q, cos, sin, style).reshape(t, -1)
        size = self._plan.kv_block
        blocks = batch.block_tables[batch.slots, batch.positions // size]
        layer, offsets = int(a["layer"]), batch.positions % size
        place = layer, blocks, offsets
        for x, kept, scales in (
            (numerics.apply_rope(k, cos, sin, style), self._keys, self._key_scales),
            (v, self._values, self._value_scales),
        ):
            if self._is_int8:
                codes, scale = numerics.quantize_activations(x.reshape(t * kv_heads, d))
                kept[place], scales[place] = codes.reshape(x.shape), scale.reshape(t, kv_heads)
            else:
                kept[place] = numerics.to_f16(x)
        return 0

    def _attention(self, step: Step, batch: Batch) -> int:
        a = step.attrs
        layer, heads, kv_heads, d = (int(a[k]) for k in ("layer", "n_heads", "n_kv_heads", "head_dim"))
        share = heads // kv_heads
        q, out = self._view(step.inputs[0], heads * d), self._view(step.outputs[0], heads * d)
        macs = 0
        for row, (slot, position) in enumerate(zip(batch.slots, batch.positions, strict=True)):
            length = int(position) + 1
            blocks = batch.block_tables[slot, : -(-length // self._plan.kv_block)]
            keys = self._keys[layer, blocks].reshape(-1, kv_heads, d)[:length]
            values = self._values[layer, blocks].reshape(-1, kv_heads, d)[:length]
            scales = [
                kept[layer, blocks].reshape(-1, kv_heads)[:length] for kept in (self._key_scales, self._value_scales)
            ]
            for g in range(kv_heads):
                columns = slice(g * share * d, (g + 1) * share * d)
                scaled = [x[:, g] for x in scales] if self._is_int8 else []
                y = numerics.attend(q[row, columns].reshape(share, d), keys[:, g], values[:, g], *scaled)
                out[row, columns] = y.reshape(-1)
            macs += 2 * heads * d * length
        return macs

    def _gated(self, step: Step, batch: Batch) -> int:
        k = int(step.attrs["k"])
        gate, up = (self._view(operand, k) for operand in step.inputs)
        function = numerics.relu2_mul if step.op == "relu2_mul" else numerics.silu_mul
        self._view(step.outputs[0], k)[:] = function(gate, up)
        return 0

    def _add(self, step: Step, batch: Batch) -> int:
        k = int(step.attrs["k"])
        x, y = (self._view(operand, k) for operand in step.inputs)
        self._view(step.outputs[0], k)[:] = x + y
        return 0

    def _output_rows(self, step: Step, batch: Batch) -> int:
        k = int(step.attrs["k"])
        self._view(step.outputs[0], k)[:] = self._view(step.inputs[0], k)[batch.outputs]
        return 0

    def _logits(self, step: Step, batch: Batch) -> int:
        k, vocab = int(step.attrs["k"]), int(step.attrs["vocab"])
        hidden, out = self._view(step.inputs[0], k), self._view(step.outputs[0], vocab)
        name = self._resident(step).tensors[0]
        for first in range(0, vocab, HEAD_ROWS):
            last = min(first + HEAD_ROWS, vocab)
            out[:, first:last] = numerics.project_logits(hidden, self._rows(name, first, last))
        return len(hidden) * k * vocab

    def _select(self, step: Step, batch: Batch) -> int:
        logits = self._view(step.inputs[0], int(step.attrs["vocab"]))
        ids, values = numerics.top_k(logits, batch.top_k)
        self._view(step.outputs[0], batch.top_k)[:] = ids
        self._view(step.outputs[1], batch.top_k)[:] = values
        return 0


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _digests(rows: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32)


def _name(step: Step) -> str:
    return f"{step.block}.{step.label}" if step.block >= 0 else step.label
