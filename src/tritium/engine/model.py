"""A model ready to run: the file, its tokenizer, its plan and an engine, behind one small class."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from tritium import backends, env
from tritium.engine.chat import encode_chat
from tritium.engine.generate import Engine, Stream
from tritium.engine.generation import Generation, GenerationResult
from tritium.engine.kv import block_bytes, blocks_for
from tritium.engine.observer import Observer
from tritium.engine.sampling import SamplingParams
from tritium.engine.tokenizer import Tokenizer
from tritium.errors import FormatError, ShapeError, TritiumError
from tritium.executor import Executor
from tritium.formats.gguf import GGUFFile, open_gguf
from tritium.graph import with_cache
from tritium.ir import Graph, Plan
from tritium.models import build_graph
from tritium.numerics import F32, KV_BLOCK
from tritium.plan import MAX_OUTPUTS, make_plan
from tritium.types import ModelConfig

if TYPE_CHECKING:
    from tritium.backends.packed import PackedStore

DEMO = "demo"
"""The name of the model inside the package."""

_DEFAULT_CONTEXT_BYTES = 1 << 30
_DEFAULT_KV_BYTES = 256 << 20

Message = Mapping[str, Any]


def resolve_model(name: str | os.PathLike[str]) -> Path:
    """The path of a model: "demo" is the one inside the package. Errors: FileNotFoundError."""
    if os.fspath(name) != DEMO:
        return Path(name)
    path = Path(__file__).resolve().parents[1] / "data" / "demo.gguf"
    if not path.is_file():
        hint = "the demo model is not in this installation: build one with examples/train, or name a GGUF file"
        raise FileNotFoundError(errno.ENOENT, hint, str(path))
    return path


def load(
    path: str | os.PathLike[str], *, device: str = "auto", threads: int | None = None, backend: str | None = None,
    max_context: int | None = None, kv_budget: int | None = None, chunk: int | None = None,
    prefix_cache: bool = True, i2s_layout: str = "128", head_screen: str = "auto", ffn_sparsity: str = "auto",
    weight_layout: str = "auto", weight_cache: bool | None = None, kv: str = "f16",
) -> Model:  # fmt: skip
    """Open a model and put its weights in place.

    ``path`` is a GGUF file or "demo". ``device`` "auto" or "cpu"; ``backend`` names one outright: "cpu", "reference", "null".
    ``threads``: None is TRITIUM_THREADS, else one a core. ``max_context``: tokens of prompt and output together; None is the
    model's own, lowered to what ``kv_budget`` holds. ``kv_budget``: bytes for the key-value cache, all sequences together;
    None is room for one full context, and for up to 32 within 256 MiB; a context above 1 GiB has to be asked for.
    ``chunk``: the most prompt tokens of one sequence in a step; ``prefix_cache``: reuse what prompts have in common.
    Neither changes a result. ``head_screen``: find candidates without reading the whole head, with the same result:
    "auto" where it pays, "on", "off"; ``ffn_sparsity``: leave out what zeros make needless in the feed-forward layers, likewise.
    ``weight_layout``: ternary weights in memory in "2bit" or "1.6bit", with the same result; "auto" times both once for each
    large shape on this machine, and keeps the times in the cache folder.
    ``i2s_layout``: the block order of I2_S, "128", "64" or "4row". ``kv``: keep keys and values as "f16",
    or as "int8" in half the memory, with other results. ``weight_cache``: keep the
    packed weights of a large model in the cache folder and map them the next time; None is TRITIUM_WEIGHT_CACHE, else yes.

    Errors: OSError; FormatError and UnsupportedError name the file and the place; ShapeError for arguments out of range.
    """
    if threads is not None and not 1 <= threads <= 1024:
        raise ShapeError("threads", expected="1 to 1024", got=threads)
    name = backends.resolve(device, backend)
    keep = env.weight_cache() if weight_cache is None else weight_cache
    place = resolve_model(path)
    file = open_gguf(place, i2s_layout=i2s_layout)
    try:
        graph = with_cache(build_graph(file), kv)
        context, n_blocks = _cache_size(graph.config, max_context, kv_budget, kv)
        plan = make_plan(
            graph, backends.find_tuned(name, threads), max_context=context, head_screen=head_screen,
            ffn_sparsity=ffn_sparsity, weight_layout=weight_layout,
        )  # fmt: skip
        # The vocabulary is one thread's work, and the weights leave the interpreter's lock alone for most of the time. Their
        # digests begin first: what opens files beside the vocabulary gets the lock back late.
        with ThreadPoolExecutor(1) as beside:
            store = _packed_store(file, threads, beside) if keep and name == "cpu" else None
            weights = beside.submit(_executor, plan, file, threads, n_blocks, store)
            tokenizer = Tokenizer.from_gguf(file)
            _check_vocabulary(graph.config, tokenizer)
        executor = weights.result()
        try:
            engine = Engine(executor, tokenizer, max_context=context, chunk=chunk, reuse=prefix_cache)
        except BaseException:
            executor.close()
            raise
    except TritiumError as error:
        file.close()
        if error.exit_code != FormatError.exit_code or str(place) in str(error):
            raise
        where = str(place) if error.where is None else f"{place}: {error.where}"
        raise type(error)(error.what, where=where, expected=error.expected, got=error.got, hint=error.hint) from error
    except BaseException:
        file.close()
        raise
    return Model(place, file, tokenizer, graph, engine)


def _packed_store(file: GGUFFile, threads: int | None, beside: ThreadPoolExecutor) -> PackedStore:
    """The packed weights in the cache folder; for a large model the digests that find them are begun."""
    from tritium.backends.cpu import default_threads, sha256_each
    from tritium.backends.packed import FOLDER, PackedStore

    n = threads or default_threads()
    root = cache(lambda: file.root(n, sha256_each))
    if PackedStore.pays(file.nbytes):
        beside.submit(root)
    return PackedStore(env.cache_folder() / FOLDER, root, lambda arrays: sha256_each(arrays, n))


def _executor(plan: Plan, file: GGUFFile, threads: int | None, kv_blocks: int, store: PackedStore | None) -> Executor:
    """Put the weights in place; packed ones come from ``store`` and stay there."""
    if plan.backend != "cpu":
        _check_tensors(file, plan)
    return Executor(plan, file, n_threads=threads, kv_blocks=kv_blocks, store=store)


def _check_vocabulary(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Refuse a vocabulary of another size than the embedding: some ids would have no text, or no row."""
    if tokenizer.vocab_size != config.vocab_size:
        raise FormatError(
            "vocabulary and embedding differ",
            where="tokenizer.ggml.tokens",
            expected=f"{config.vocab_size} tokens",
            got=tokenizer.vocab_size,
        )


def _check_tensors(file: GGUFFile, plan: Plan) -> None:
    """Read once what will be used as it stands in the file; what is unpacked is checked on the way."""
    for resident in plan.residents:
        for name in resident.tensors:
            if name in file.tensors and file.tensor(name).layout == resident.layout:
                file.check(name)


def _cache_size(config: ModelConfig, max_context: int | None, kv_budget: int | None, kv: str) -> tuple[int, int]:
    """The context in tokens and the cache in blocks."""
    size = block_bytes(config, kv)
    if max_context is not None and not 1 <= max_context <= config.max_context:
        raise ShapeError("max_context", expected=f"1 to {config.max_context}, the model's own", got=max_context)
    if kv_budget is not None and kv_budget < size:
        raise ShapeError("kv_budget", expected=f"at least {size} bytes, one block of {KV_BLOCK} tokens", got=kv_budget)
    affordable = (_DEFAULT_CONTEXT_BYTES if kv_budget is None else kv_budget) // size * KV_BLOCK
    if max_context is None:
        max_context = min(config.max_context, max(affordable, KV_BLOCK))
    elif kv_budget is not None and max_context > affordable:
        need = blocks_for(max_context) * size
        raise ShapeError("kv_budget", expected=f"at least {need} bytes for max_context {max_context}", got=kv_budget)
    one = blocks_for(max_context)
    if kv_budget is None:
        return max_context, max(one, min(MAX_OUTPUTS * one, _DEFAULT_KV_BYTES // size))
    return max_context, min(kv_budget // size, MAX_OUTPUTS * one)


class Model:
    """A loaded model; make one with ``load``. A context manager; several threads may use it at a time.

    ``config``, ``tokenizer`` and ``plan`` describe it; ``graph_hash`` is what it means, ``plan_hash`` how it runs here. Wherever
    sampling parameters are taken, ``params`` may be a ``SamplingParams``, or its fields may be given as keywords.
    """

    def __init__(self, path: Path, file: GGUFFile, tokenizer: Tokenizer, graph: Graph, engine: Engine) -> None:
        self.path = path
        self.config: ModelConfig = graph.config
        self.graph = graph
        self.tokenizer = tokenizer
        self.plan: Plan = engine.executor.plan
        self.graph_hash = self.plan.graph_hash
        self.plan_hash = self.plan.hash
        self.max_context = engine.max_context
        self.n_threads = engine.executor.n_threads
        self._file = file
        self._open_engine: Engine | None = engine

    @property
    def engine(self) -> Engine:
        """The engine, for callers that queue generations themselves. Errors: ShapeError after ``close``."""
        if self._open_engine is None:
            raise ShapeError("the model is closed", where=str(self.path))
        return self._open_engine

    @property
    def file(self) -> GGUFFile:
        """The open model file. Errors: ShapeError after ``close``."""
        if self._open_engine is None:
            raise ShapeError("the model is closed", where=str(self.path))
        return self._file

    @property
    def has_chat_template(self) -> bool:
        """True if the file brings a chat template: it was tuned on conversations."""
        return bool(self.tokenizer.chat_template)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release weights, cache and threads. Generations that still run end as cancelled."""
        engine, self._open_engine = self._open_engine, None
        if engine is not None:
            engine.close()
            self._file.close()

    def tokenize(self, text: str, *, add_special_tokens: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text. Names of control tokens are text like any other unless ``parse_special``."""
        return self.tokenizer.encode(text, add_special_tokens, parse_special)

    def detokenize(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of token ids."""
        return self.tokenizer.decode(ids, skip_special_tokens)

    def logits(self, ids: Sequence[int]) -> F32:
        """Logits after each token, from an empty cache. Shapes: (T,) ids → (T, vocab_size) f32. Errors: ShapeError."""
        return self.engine.logits(ids)

    @overload
    def generate(
        self, prompt: str | Sequence[int], params: SamplingParams | None = None, *,
        parse_special: bool = False, cancel: threading.Event | None = None, measure: bool = False, **fields: Any,
    ) -> GenerationResult: ...  # fmt: skip
    @overload
    def generate(
        self, prompt: list[str] | list[list[int]], params: SamplingParams | None = None, *,
        parse_special: bool = False, cancel: threading.Event | None = None, measure: bool = False, **fields: Any,
    ) -> list[GenerationResult]: ...  # fmt: skip
    def generate(
        self, prompt: str | Sequence[int] | list[str] | list[list[int]], params: SamplingParams | None = None, *,
        parse_special: bool = False, cancel: threading.Event | None = None, measure: bool = False, **fields: Any,
    ) -> GenerationResult | list[GenerationResult]:  # fmt: skip
        """Continue a prompt, a text or token ids, or a list of prompts at the same time.

        Setting ``cancel`` from another thread ends it with what there is. ``measure`` adds the logits' hash and the decode bytes.
        Errors: ShapeError for a prompt that does not fit or a parameter out of range; NumericsError.
        """
        many = not isinstance(prompt, str) and len(prompt) > 0 and not _is_id(prompt[0])
        prompts: Sequence[Any] = prompt if many else [prompt]
        ids = [self._ids(one, parse_special) for one in prompts]
        engine = self.engine
        results = engine.run(engine.submit(ids, _params(params, fields), cancel=cancel, measure=measure))
        return results if many else results[0]

    def stream(
        self, prompt: str | Sequence[int], params: SamplingParams | None = None, *,
        parse_special: bool = False, cancel: threading.Event | None = None, measure: bool = False,
        observer: Observer | None = None, **fields: Any,
    ) -> Stream:  # fmt: skip
        """Continue a prompt piece by piece; the pieces joined are the text that ``generate`` returns. As ``generate``."""
        generations = self.engine.submit(
            [self._ids(prompt, parse_special)],
            _params(params, fields),
            cancel=cancel,
            measure=measure,
            observers=(observer,),
        )
        return self._stream(generations)

    def chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, **fields: Any
    ) -> GenerationResult:
        """Answer a conversation: mappings with ``role`` and ``content``. Errors: as ``encode_chat`` and ``generate``."""
        ids = encode_chat(self.tokenizer, messages)
        engine = self.engine
        return engine.run(engine.submit([ids], _params(params, fields), continuation=False))[0]

    def chat_stream(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *,
        cancel: threading.Event | None = None, measure: bool = False, observer: Observer | None = None, **fields: Any,
    ) -> Stream:  # fmt: skip
        """As ``chat``, piece by piece."""
        ids = encode_chat(self.tokenizer, messages)
        generations = self.engine.submit(
            [ids], _params(params, fields), cancel=cancel, measure=measure, continuation=False, observers=(observer,)
        )
        return self._stream(generations)

    def _stream(self, generations: list[Generation]) -> Stream:
        return Stream(self.engine, generations[0])

    def _ids(self, prompt: str | Sequence[int], parse_special: bool) -> Sequence[int]:
        return self.tokenize(prompt, parse_special=parse_special) if isinstance(prompt, str) else prompt


def _is_id(value: object) -> bool:
    return not isinstance(value, (str, Sequence)) and hasattr(value, "__index__")


def _params(params: SamplingParams | None, fields: Mapping[str, Any]) -> SamplingParams:
    if params is None:
        return SamplingParams(**fields)
    if fields:
        raise ShapeError("sampling parameters", expected="params or keywords", got=f"both: {', '.join(fields)}")
    return params
