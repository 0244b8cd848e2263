"""llama.cpp as a peer, through llama-cpp-python: the same weights in a GGUF file of its own types and names.

It reads ternary matrices as TQ2_0 or TQ1_0 and quantizes activations itself, in blocks of 256; in F16 it does not quantize them.
Its only BitNet is the SiLU one.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from tritium.bench.peers import Capture, Difference
from tritium.bench.walk import BLOCK, Values, Variation, keys_name, values_name
from tritium.errors import NumericsError, UnsupportedError
from tritium.formats.gguf import GGUFFile
from tritium.formats.gguf_writer import GGUFWriter
from tritium.ir import Graph, Node
from tritium.layouts import LAYOUTS
from tritium.numerics import F32
from tritium.types import ModelConfig

VARIANTS: Mapping[str, str] = {
    "tq2_0": "TQ2_0 with block scales of 1 and the matrix's scale as a float32 tensor",
    "tq1_0": "TQ1_0 with block scales of 1 and the matrix's scale as a float32 tensor",
    "f16": "trits as F16 and the matrix's scale as a float32 tensor",
}

_F32 = 0  # GGML_TYPE_F32

Key = tuple[str, str]
"""Name and operation of a tensor of their graph; the operation is "" where the name suffices."""


def open_peer(graph: Graph, file: GGUFFile, variant: str, threads: int | None) -> LlamaCppPeer:
    """Write the model for llama.cpp and load it. Errors: UnsupportedError for a graph that it does not have."""
    _check(graph, file, variant)
    return LlamaCppPeer(graph, file, variant, threads)


class LlamaCppPeer:
    """Their model with the file's weights; see ``tritium.bench.peers.Peer``. Its cache is float32, flash attention off."""

    name = "llama.cpp"
    is_float32 = True

    def __init__(self, graph: Graph, file: GGUFFile, variant: str, threads: int | None) -> None:
        self._graph, self._variant, self._threads = graph, variant, threads
        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        self.settings = {
            "variant": variant, "holds": VARIANTS[variant], "architecture": _architecture(graph.config),
            "cache": "float32", "flash attention": "off",
        }  # fmt: skip
        self._log = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._folder = tempfile.TemporaryDirectory(prefix="tritium-crossval-")
        path = Path(self._folder.name) / "model.gguf"
        write_model(path, graph, file, variant)
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            self._folder.cleanup()
            raise UnsupportedError(
                "llama.cpp does not load the model", where=str(file.path), got=self.settings["holds"]
            )

    def run(self, ids: NDArray[np.int32], *, capture: bool) -> Capture:
        """Forward the tokens in one batch, with ``capture`` recording the tensors that have a name in our graph."""
        seen = _Seen(_wanted(self._graph) if capture else {}, len(ids))
        logits = self._forward(ids, seen if capture else None)
        if not capture:
            return Capture(logits)
        values = dict(seen.values)
        for node in self._graph.nodes:
            if node.op == "rope_kv" and node.inputs[2] in values:
                values[values_name(int(node.attrs["layer"]))] = values[node.inputs[2]]
            elif node.op == "output_rows" and node.inputs[0] in values:
                values[node.outputs[0]] = values[node.inputs[0]]
        return Capture(logits, values, self._differences(len(ids)))

    def in_float32(self, ids: NDArray[np.int32]) -> F32 | None:
        """None: it computes in float32."""
        return None

    def logits(self, ids: Sequence[int]) -> F32:
        """Logits after each token. Shapes: (T,) ids → (T, vocab_size) f32."""
        return self._forward(np.array(ids, np.int32), None)

    def close(self) -> None:
        """Release the model and delete its file."""
        model, self._model = self._model, None
        if model:
            llama_cpp.llama_model_free(model)
            self._folder.cleanup()

    def _forward(self, ids: NDArray[np.int32], seen: _Seen | None) -> F32:
        n = len(ids)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = -(-n // 256) * 256
        params.n_batch = params.n_ubatch = n
        params.type_k = params.type_v = _F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if self._threads is not None:
            params.n_threads = params.n_threads_batch = self._threads
        if seen is not None:
            params.cb_eval = seen.callback
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            raise UnsupportedError("llama.cpp refuses a context", got=f"{n} tokens")
        batch = llama_cpp.llama_batch_init(n, 0, 1)
        try:
            batch.n_tokens = n
            for i, token in enumerate(ids):
                batch.token[i], batch.pos[i] = int(token), i
                batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
            code = llama_cpp.llama_decode(context, batch)
            if code:
                raise NumericsError("llama.cpp failed to decode", got=f"code {code}")
            if seen is not None and seen.error is not None:
                raise seen.error
            vocab = self._graph.config.vocab_size
            rows = llama_cpp.llama_get_logits(context)
            return np.ctypeslib.as_array(rows, shape=(n * vocab,)).reshape(n, vocab).copy()
        finally:
            llama_cpp.llama_batch_free(batch)
            llama_cpp.llama_free(context)

    def _differences(self, n: int) -> tuple[Difference, ...]:
        c = self._graph.config
        out = []
        if c.activation != "silu":
            text = "SiLU in the gate; ours is relu², as the model was trained"
            out.append(Difference("activation", text, Variation(activation="silu")))
        if self._variant == "f16":
            text = "activations rounded to float16; ours are int8 with a scale a token"
            out.append(Difference("activations", text, Variation(scaling="f16")))
        else:
            text = f"an int8 scale for each {BLOCK} activations; ours has one a token"
            out.append(Difference("activations", text, Variation(scaling="block")))
        out.append(Difference("cache", "keys and values in float32; ours are float16", Variation(cache="f32")))
        text = "RoPE angles by repeated multiplication in float32; ours in float64"
        out.append(Difference("angles", text, Variation(tables=_tables(n, c))))
        return tuple(out)


def _architecture(c: ModelConfig) -> str:
    return "bitnet" if c.sub_norms else "llama"


def _check(graph: Graph, file: GGUFFile, variant: str) -> None:
    c = graph.config
    if c.sub_norms and not c.tied_head:
        raise UnsupportedError(
            "llama.cpp's BitNet", expected="an output head tied to the embedding", got="an untied one"
        )
    if c.sub_norms and c.n_heads * c.head_dim != c.d_model:
        raise UnsupportedError(
            "llama.cpp's BitNet", expected="n_heads · head_dim = d_model", got=c.n_heads * c.head_dim
        )
    for node in graph.nodes:
        if node.op != "linear":
            continue
        if node.attrs["group"]:
            raise UnsupportedError("a scale a group", where=node.weights[0], expected="one scale a matrix")
        if variant != "f16" and int(node.attrs["k"]) % BLOCK:
            raise UnsupportedError(
                f"{variant.upper()} holds rows of {BLOCK}s", where=node.weights[0], expected=f"a multiple of {BLOCK}",
                got=int(node.attrs["k"]), hint="Compare in float16: --variant f16",
            )  # fmt: skip


def write_model(path: Path, graph: Graph, file: GGUFFile, variant: str) -> None:
    """Write the weights as upstream llama.cpp names and stores them; embedding, head and norms in float32, no tokenizer."""
    linear = {node.weights[0] for node in graph.nodes if node.op == "linear"}
    with GGUFWriter(path) as out:
        for key, value in _metadata(graph.config, LAYOUTS[variant].file_type).items():
            out.add(key, value)
        for name, info in file.tensors.items():
            out.declare(name, info.shape, variant if name in linear else "f32")
            if name in linear:
                out.declare(_scale_name(name), (1,), "f32")
        for name in file.tensors:
            if name not in linear:
                out.write(name, LAYOUTS["f32"].pack(file.unpack(name)))
                continue
            trits, scale = file.trits(name)[0], file.scale(name)
            assert scale is not None, name
            layout = LAYOUTS[variant]
            if layout.is_ternary:
                out.write(name, layout.pack_trits(trits, np.ones(trits.size // BLOCK, np.float32)))
            else:
                out.write(name, layout.pack(trits.astype(np.float32)))
            out.write(_scale_name(name), LAYOUTS["f32"].pack(np.array([scale])))


def _scale_name(tensor: str) -> str:
    return tensor.removesuffix(".weight") + ".scale"


def _metadata(c: ModelConfig, file_type: int) -> dict[str, Any]:
    prefix = _architecture(c)
    values: dict[str, Any] = {
        "general.architecture": prefix,
        "general.file_type": file_type,
        f"{prefix}.vocab_size": c.vocab_size,
        f"{prefix}.context_length": c.max_context,
        f"{prefix}.embedding_length": c.d_model,
        f"{prefix}.block_count": c.n_layers,
        f"{prefix}.feed_forward_length": c.d_ff,
        f"{prefix}.attention.head_count": c.n_heads,
        f"{prefix}.attention.head_count_kv": c.n_kv_heads,
        f"{prefix}.attention.key_length": c.head_dim,
        f"{prefix}.attention.value_length": c.head_dim,
        f"{prefix}.attention.layer_norm_rms_epsilon": c.norm_eps,
        f"{prefix}.rope.dimension_count": c.head_dim,
        f"{prefix}.rope.freq_base": c.rope_theta,
        "tokenizer.ggml.model": "none",
    }
    if c.rope_factors:
        values[f"{prefix}.rope.scaling.type"] = "linear"
        values[f"{prefix}.rope.scaling.factor"] = c.rope_factors[0]
    return values


def _wanted(graph: Graph) -> dict[Key, str]:
    """Their tensors → our values."""
    out: dict[Key, str] = {("embd", ""): graph.nodes[0].outputs[0], ("result_output", ""): graph.nodes[-2].outputs[0]}
    is_bitnet = graph.config.sub_norms
    adds = ("ffn_inp", "l_out")
    for node in graph.nodes:
        i = node.block
        if node.op == "rmsnorm":
            name = node.weights[0].split(".")[-2]
            out["result_norm" if i < 0 else f"{name}-{i}", ""] = node.outputs[0]
        elif node.op == "linear":
            out[_linear_key(node, is_bitnet)] = node.outputs[0]
        elif node.op == "rope_kv":
            out[f"Qcur-{i}", "ROPE"] = node.outputs[0]
            out[f"Kcur-{i}", "ROPE"] = keys_name(int(node.attrs["layer"]))
        elif node.op == "attention":
            out[f"kqv_out-{i}", ""] = node.outputs[0]
        elif node.op.endswith("_mul"):
            out[f"ffn_sub_out-{i}" if is_bitnet else f"ffn_swiglu-{i}", ""] = node.outputs[0]
        elif node.op == "add":
            out[f"{adds[0]}-{i}", ""] = node.outputs[0]
            adds = adds[::-1]
    return out


def _linear_key(node: Node, is_bitnet: bool) -> Key:
    theirs = {
        "attn_q": "Qcur", "attn_k": "Kcur", "attn_v": "Vcur", "attn_output": "attn_out", "ffn_gate": "ffn_gate_s",
        "ffn_up": "ffn_up_s", "ffn_down": "ffn_down" if is_bitnet else "ffn_out",
    }  # fmt: skip
    # The product with the scale: the names are also those of other steps.
    return f"{theirs[node.weights[0].split('.')[2]]}-{node.block}", "MUL"


class _Functions(NamedTuple):
    name: Any
    operation: Any
    n_elements: Any
    n_bytes: Any
    is_contiguous: Any
    read: Any


def _functions() -> _Functions:
    """ggml's accessors of a tensor, from the library that llama-cpp-python has loaded."""
    library = llama_cpp.llama_cpp._lib

    def bind(name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
        return function

    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    return _Functions(
        bind("ggml_get_name", ctypes.c_char_p, pointer),
        bind("ggml_op_desc", ctypes.c_char_p, pointer),
        bind("ggml_nelements", ctypes.c_int64, pointer),
        bind("ggml_nbytes", size, pointer),
        bind("ggml_is_contiguous", ctypes.c_bool, pointer),
        bind("ggml_backend_tensor_get", None, pointer, pointer, size, size),
    )


class _Seen:
    """Copies of the tensors that were asked for, taken as soon as each is computed: their memory is used again."""

    def __init__(self, wanted: Mapping[Key, str], n_tokens: int) -> None:
        self.values: Values = {}
        self.error: Exception | None = None
        self._wanted, self._n_tokens = wanted, n_tokens
        self._ggml = _functions()
        self.callback = llama_cpp.llama_cpp.ggml_backend_sched_eval_callback(self._visit)

    def _visit(self, tensor: int, is_question: bool, _data: Any) -> bool:
        try:
            name = self._ggml.name(tensor).decode()
            target = self._wanted.get((name, "")) or self._wanted.get((name, self._ggml.operation(tensor).decode()))
            if target is not None and not is_question:
                self.values[target] = self._copy(tensor, name)
        except Exception as error:  # An exception cannot pass through their code.
            self.error = error
            return False
        return target is not None if is_question else True

    def _copy(self, tensor: int, name: str) -> F32:
        count = self._ggml.n_elements(tensor)
        if self._ggml.n_bytes(tensor) != 4 * count or not self._ggml.is_contiguous(tensor):
            raise UnsupportedError("a tensor of llama.cpp that is not contiguous float32", where=name)
        out = np.empty(count, np.float32)
        self._ggml.read(tensor, out.ctypes.data, 0, out.nbytes)
        return out.reshape(self._n_tokens, -1)


def _tables(n: int, c: ModelConfig) -> tuple[F32, F32]:
    """cos and sin (n, head_dim/2) of angles that are multiplied up from feature to feature, as ggml does."""
    step = np.float32(c.rope_theta) ** np.float32(-2.0 / c.head_dim)
    factor = np.float32(1 / c.rope_factors[0] if c.rope_factors else 1)
    angle = np.arange(n, dtype=np.float32)
    columns = []
    for _ in range(c.head_dim // 2):
        columns.append(angle * factor)
        angle = angle * step
    angles = np.stack(columns, axis=1).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
