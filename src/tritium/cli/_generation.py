"""What the commands that generate text have in common: options, loading, interrupts, and the line of figures at the end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tritium import env
from tritium.cli import kv_option, note, weight_layout_option

if TYPE_CHECKING:
    from tritium.engine.generation import GenerationResult
    from tritium.engine.model import Model
    from tritium.engine.sampling import SamplingParams

F = TypeVar("F", bound=Callable[..., Any])

PROBE_BYTES = 256 << 20
"""Read to measure the memory bandwidth; larger than the caches of most machines."""

_MODEL_OPTION = click.option("-m", "--model", help='A GGUF file, or "demo". [default: BITNET_GGUF, else demo]')
_MODEL_OPTIONS = (
    click.option("--device", default="auto", show_default=True, help="auto or cpu."),
    click.option("--backend", help="Name the back end outright: cpu, reference or null."),
    click.option(
        "--max-context", type=int, help="Tokens of prompt and output together. [default: the model's, within 1 GiB]"
    ),
    click.option(
        "--i2s-layout", default="128", show_default=True, help="Block order of I2_S in the file: 128, 64 or 4row."
    ),
    click.option(
        "--head-screen",
        default="auto",
        show_default=True,
        help="Find candidates without reading the whole head, with the same result: auto (where it pays), on or off.",
    ),
    click.option(
        "--ffn-sparsity",
        default="auto",
        show_default=True,
        help="Leave out weights that zeros make needless, with the same result: auto (where it pays), on or off.",
    ),
    weight_layout_option,
    kv_option,
)
_SAMPLING_OPTIONS = (
    click.option("-n", "--max-tokens", type=int, default=128, show_default=True, help="The most tokens to generate."),
    click.option("--temperature", type=float, help="0 takes the best token; above, draws. [default: 0]"),
    click.option("--top-k", type=int, help="Draw among the k best; 0 is all. [default: 0]"),
    click.option("--top-p", type=float, help="Draw among the best that hold this much probability. [default: 1]"),
    click.option(
        "--min-p", type=float, help="Drop tokens below this share of the best one's probability. [default: 0]"
    ),
    click.option("--typical-p", type=float, help="Draw among the most typical that hold this much. [default: 1]"),
    click.option("--repetition-penalty", type=float, help="Divides logits of tokens that occurred. [default: 1]"),
    click.option("--frequency-penalty", type=float, help="Subtracted for each time a token was output. [default: 0]"),
    click.option("--presence-penalty", type=float, help="Subtracted once a token was output. [default: 0]"),
    click.option("--logit-bias", multiple=True, metavar="ID=BIAS", help="Added to a token's logit; repeatable."),
    click.option("--seed", type=int, help="Key of the random numbers. [default: BITNET_SEED, else 0]"),
    click.option("--stop", multiple=True, metavar="TEXT", help="End in front of this text; repeatable."),
    click.option("--stop-id", "stop_ids", multiple=True, type=int, help="End at this token; repeatable."),
    click.option("--ignore-eos", is_flag=True, help="Go on after the model's end tokens."),
)


def model_options(function: F, threads: str = "TRITIUM_THREADS, else one a core") -> F:
    """Add the options that choose a model and what runs it; they arrive as the keywords of ``load_model``."""
    count = click.option("--threads", type=int, help=f"Threads of the native core. [default: {threads}]")
    for option in reversed((_MODEL_OPTION, count, *_MODEL_OPTIONS)):
        function = option(function)
    return function


def one_thread_model_options(function: F) -> F:
    """``model_options`` of a command that takes one thread unless told otherwise."""
    return model_options(function, threads="1")


def sampling_options(function: F) -> F:
    """Add the options of SamplingParams; they arrive as the keywords of ``sampling_params``."""
    for option in reversed(_SAMPLING_OPTIONS):
        function = option(function)
    return function


_MODEL_KEYS = (
    "model",
    "threads",
    "device",
    "backend",
    "max_context",
    "i2s_layout",
    "head_screen",
    "ffn_sparsity",
    "weight_layout",
    "kv",
)


def load_model(
    options: dict[str, Any], *, quiet: bool = False, prefix_cache: bool = True, kv_budget: int | None = None
) -> Model:
    """Take the model's options out of ``options``, load it, and say what was assumed where the file is silent."""
    from tritium.engine.model import DEMO, load

    chosen = {key: options.pop(key) for key in _MODEL_KEYS}
    model = load(chosen.pop("model") or env.model() or DEMO, prefix_cache=prefix_cache, kv_budget=kv_budget, **chosen)
    if not quiet:
        for line in model.tokenizer.notes:
            note(line)
    if env.traces_timing():
        from tritium.bench.timing import timing_line

        model.engine.watch = lambda done: note(timing_line(done, model.plan))
    return model


def sampling_params(options: dict[str, Any]) -> SamplingParams:
    """Make SamplingParams from what is left of the options; what was not given keeps its default."""
    from tritium.engine.sampling import SamplingParams

    given = {key: value for key, value in options.items() if value is not None}
    seed = env.seed()
    if seed is not None:
        given.setdefault("seed", seed)
    given["logit_bias"] = dict(map(_read_bias, given["logit_bias"]))
    return SamplingParams(**given)


def _read_bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise click.UsageError(f"--logit-bias: expected ID=BIAS, got {text!r}") from None


@contextmanager
def interruptible(cancel: threading.Event) -> Iterator[None]:
    """Let Ctrl-C set ``cancel``, so that what has been generated is kept; a second one interrupts outright."""

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@dataclass(frozen=True, slots=True)
class Figures:
    """How fast one generation was.

    Speeds count the tokens after the first, from token to token. ``gb_per_s`` (10⁹ bytes) is weights and cache as the
    executor counted them, over the same time; ``bandwidth_gb_per_s`` is what this machine reads with as many threads, measured
    right after. ``anonymous_bytes`` of memory are the process's own, ``file_backed_bytes`` the system can read again, as
    mapped weights. None where nothing was measured.
    """

    n_tokens: int
    tokens_per_s: float | None
    ms_per_token: float | None
    gb_per_s: float | None
    bandwidth_gb_per_s: float | None
    bandwidth_percent: float | None
    logits_sha256: str | None
    anonymous_bytes: int | None
    file_backed_bytes: int | None

    def line(self) -> str:
        """All of it in one line."""
        parts = [f"{self.n_tokens} token" + ("" if self.n_tokens == 1 else "s")]
        if self.tokens_per_s is not None:
            digits = 0 if self.tokens_per_s >= 1000 else 1
            parts += [f"{self.tokens_per_s:.{digits}f} tok/s", f"{self.ms_per_token:.3g} ms/token"]
        if self.gb_per_s is not None:
            parts.append(f"{self.gb_per_s:.3g} GB/s")
        if self.bandwidth_gb_per_s is not None:
            parts.append(f"{self.bandwidth_percent:.3g} % of measured bandwidth {self.bandwidth_gb_per_s:.3g} GB/s")
        if self.anonymous_bytes is not None and self.file_backed_bytes is not None:
            parts.append(f"memory {self.anonymous_bytes >> 20} MiB + {self.file_backed_bytes >> 20} MiB mapped")
        if self.logits_sha256 is not None:
            parts.append(f"logits sha256 {self.logits_sha256[:16]}")
        return " · ".join(parts)

    def as_json(self) -> dict[str, object]:
        """All of it by name."""
        return asdict(self)


def figures(model: Model, result: GenerationResult) -> Figures:
    """Work out the figures of a measured generation; reads memory for a moment to know the bandwidth."""
    from tritium.resources import memory

    n, seconds, held = len(result.token_ids), result.decode_ns / 1e9, memory()
    end = result.logits_sha256, held.anonymous_bytes, held.file_backed_bytes
    if n < 2 or seconds <= 0:
        return Figures(n, None, None, None, None, None, *end)
    speed = bandwidth = percent = None
    if result.decode_bytes and model.plan.backend == "cpu":
        from tritium.backends.cpu import read_bandwidth

        speed = result.decode_bytes / seconds / 1e9
        bandwidth = read_bandwidth(model.n_threads, PROBE_BYTES)
        percent = 100 * speed / bandwidth
    steps = n - 1
    return Figures(n, steps / seconds, 1e3 * seconds / steps, speed, bandwidth, percent, *end)
