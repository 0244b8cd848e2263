"""What stands beside the flame graphs: metadata of each, an index, a guide, and how the program was built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tritium.bench import host
from tritium.bench.flame import LEGEND, Stack
from tritium.bench.flame_svg import amount
from tritium.bench.host import Host
from tritium.bench.timing_report import table


@dataclass(frozen=True, slots=True)
class Graph:
    """One flame graph: its files' common name, what was run, and what it shows."""

    name: str
    model: str
    model_sha256: str
    layout: str
    backend: str
    n_threads: int
    prompt: str
    prompt_tokens: int
    tokens: int
    iterations: int
    started: str
    command: str
    svg_bytes: int
    total_ns: int


@dataclass(frozen=True, slots=True)
class Hotspot:
    """A kernel doing one op in one phase, all layers together."""

    phase: str
    op: str
    kernel: str
    ns: int
    calls: int
    macs: int
    bytes: int


def hotspots(stacks: Iterable[Stack]) -> list[Hotspot]:
    """Where the time went, the longest first."""
    sums: dict[tuple[str, str, str], list[int]] = {}
    for stack in stacks:
        names = stack.names[:-1] if stack.names[-1].startswith("layer ") else stack.names
        phase, op, kernel = names[1], names[-2] if stack.calls else names[-1], names[-1] if stack.calls else "–"
        row = sums.setdefault((phase, op, kernel), [0, 0, 0, 0])
        for i, n in enumerate((stack.ns, stack.calls, stack.macs, stack.bytes)):
            row[i] += n
    rows = [Hotspot(*key, *row) for key, row in sums.items()]
    return sorted(rows, key=lambda row: -row.ns)


def sized(graph: Graph, n_bytes: int) -> Graph:
    """The same graph, its picture having so many bytes."""
    return replace(graph, svg_bytes=n_bytes)


def metadata(graph: Graph, stacks: Sequence[Stack], where: Host, beside: Sequence[str]) -> str:
    """The Markdown beside one picture."""
    return "\n".join(_metadata(graph, stacks, where, beside)) + "\n"


def _metadata(graph: Graph, stacks: Sequence[Stack], where: Host, beside: Sequence[str]) -> Iterable[str]:
    yield f"# {graph.name}: {_tokens(graph.tokens)} decoded after a prompt of {graph.prompt_tokens}"
    yield ""
    yield f"![Flame graph]({graph.name}.svg)"
    yield ""
    yield "## Hotspots"
    yield ""
    yield f"All of it: {amount(graph.total_ns)}. The longest, all layers together:"
    yield ""
    yield "| phase | op | kernel | time | % of all | calls | GB/s | GMAC/s |"
    yield "|---|---|---|---:|---:|---:|---:|---:|"
    for row in hotspots(stacks)[:12]:
        rates = f"{row.bytes / row.ns:.3g} | {row.macs / row.ns:.3g}" if row.calls else "– | –"
        share = 100 * row.ns / graph.total_ns
        yield f"| {row.phase} | {row.op} | `{row.kernel}` | {amount(row.ns)} | {share:.1f} | {row.calls or '–'} | {rates} |"
    yield ""
    yield "For each that matters, note before it is worked on: its limit (bytes or products), the part of it that is reached, the"
    yield "expected gain, and the flame graph to compare with: `tritium flamegraph diff BEFORE.collapsed AFTER.collapsed`."
    yield ""
    yield "## What was run"
    yield ""
    yield from table(
        [
            ("model", f"`{graph.model}`, {graph.layout}, sha256 `{graph.model_sha256}`"),
            ("prompt", f"`{graph.prompt}`, {graph.prompt_tokens} tokens"),
            (
                "decoded",
                f"{_tokens(graph.tokens)}; of {graph.iterations} runs after one that does not count, the one in the middle",
            ),
            ("determinism", "temperature 0, seed 42, greedy; every run gave the same tokens"),
            ("back end", f"{graph.backend}, {graph.n_threads} thread{'' if graph.n_threads == 1 else 's'}"),
            ("tool", f"the executor's own counters, tritium {where.version}"),
            ("written", f"{graph.started} by `{graph.command}`"),
            ("picture", f"{graph.svg_bytes} bytes"),
        ]
    )
    yield ""
    yield "## Files"
    yield ""
    yield f"- `{graph.name}.svg`: open it in a browser; hover for figures, click to zoom, Esc to reset, Ctrl-F to search."
    yield f"- `{graph.name}.collapsed`: stacks and nanoseconds, for `tritium flamegraph diff` and other tools."
    yield f"- `{graph.name}.speedscope.json`: for speedscope; its second profile shows the steps in their order."
    for line in beside:
        yield f"- {line}"
    yield ""
    yield "How to read it: [the guide](../FLAMEGRAPH_README.md)."
    yield ""
    yield "## Host and build"
    yield ""
    yield from table(host.rows(where))


def _tokens(n: int) -> str:
    return f"{n} token{'' if n == 1 else 's'}"


def index(graphs: Sequence[Graph]) -> str:
    """The README of the folder of pictures."""
    lines = [
        "# Flame graphs",
        "",
        "Where the time of a model's tokens goes, as the executor counted it. How to read them:",
        "[the guide](../FLAMEGRAPH_README.md); how the program was built: [build summary](../BUILD_SUMMARY.md).",
        "",
    ]
    for graph in graphs:
        lines += [
            f"## [{_tokens(graph.tokens)}]({graph.name}.md)",
            "",
            f"`{graph.model}`, {graph.n_threads} thread{'' if graph.n_threads == 1 else 's'}, {graph.started}.",
            "",
            f"[![{_tokens(graph.tokens)}]({graph.name}.svg)]({graph.name}.svg)",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def build_summary(where: Host, command: str) -> str:
    """How what was measured was built, and how it was run."""
    lines = ["# Build summary", "", f"Written by `{command}`.", "", "## Build", ""]
    lines += table(
        [
            ("compiler", where.compiler),
            ("flags", f"`{where.compiler_flags}`; a further file for each instruction set adds that set's own flags"),
            (
                "link-time optimization",
                "off: the executor calls kernels by pointer, so that none could be inlined into it",
            ),
            ("instruction set", f"chosen at run time by a self-test: {where.isas[0]} of {', '.join(where.isas)}"),
            ("symbols", "kept by `make build`, so that a sampling profiler can name the kernels; a wheel is stripped"),
            ("version", f"tritium {where.version}, Python {where.machine.python}"),
        ]
    )
    lines += ["", "## System", "", *table(host.rows(where)), "", "## Settings of every run", ""]
    lines += table(
        [
            ("sampling", "temperature 0, seed 42: the best token each time"),
            ("determinism", "a run whose tokens differ from the one before fails, and nothing is written"),
            ("threads", "1, unless --threads says otherwise; one thread has no waiting to show"),
            ("prefix cache", "off: every run forwards the whole prompt"),
        ]
    )
    return "\n".join(lines) + "\n"


def guide(picture: str) -> str:
    """How to draw, read and compare flame graphs; the same on every machine. ``picture`` is the one that it shows."""
    kinds = "\n".join(f"| {text} | {_ABOUT[kind]} |" for kind, text in LEGEND.items())
    return _GUIDE.replace("KINDS", kinds).replace("PICTURE", picture)


_ABOUT = {
    "linear": "products of int8 activations and ternary weights: bound by bytes while decoding, by products in a prompt",
    "attention": "rotating queries and keys, writing the cache, attention over it: grows with the context",
    "norm": "RMS norms and the quantization of activations, fused where a back end can",
    "elementwise": "activation functions, copies of rows, sums",
    "head": "from the last hidden row to candidates: large vocabularies make it the largest part of a token",
    "embed": "the lookup of the token's row",
    "sample": "scheduler, the call into the native core, sampler, text: Python",
    "between": "inside the native core, but in no kernel: starting threads, barriers, counters",
    "frame": "a frame whose parts are of several kinds",
}

_GUIDE = """# Flame graphs: a guide

`tritium flamegraph` runs a model, lets the executor count the time of every kernel in every layer, and draws it. No profiler and
no permission is needed, nothing is sampled and nothing is estimated: the frames of a run add up to its wall time.

![A flame graph](flamegraphs/PICTURE.svg)

```sh
tritium flamegraph -m demo --device cpu
tritium flamegraph -m model.gguf --device cpu --tokens 1 --tokens 10
```

`scripts/phase2_flamegraph.sh [MODEL] [TOKENIZER]` builds first, unless `BITNET_SKIP_BUILD=1`, and looks for a model if none is
named: `BITNET_GGUF`, then `models/microsoft-bitnet-b1.58-2B-4T-gguf`, `models` and the current folder.

## Reading one

- **Width is time.** A frame is as wide as what it and everything above it took. The axis below the frames tells how long that
  is.
- **Height is depth**, from the bottom up: the run; prefill or decode; embed, forward, logits or sample; attention or
  feed-forward; an op; the kernel that did it; the layer.
- **The order from left to right is that of the plan**, but equal frames are merged. The second profile of the speedscope file
  keeps the steps apart.
- **Color is the kind of work:**

| color | what it is |
|---|---|
KINDS

Hover a frame for its time, its share of everything and of its parent, its calls, and the bytes and products a second that it
reached. Click it to zoom in, press Esc to zoom out, Ctrl-F to search by a regular expression: the matching share is shown. A
viewer that runs no scripts shows the same picture, still.

## What to look for

1. A wide ternary frame in decode: compare its GB/s with the read bandwidth that `tritium benchmark` measures. Near it, only fewer
   bytes help.
2. A wide ternary frame in prefill: compare its GMAC/s with the int8 peak.
3. "between kernels" and "outside the native core": what a faster kernel will not mend. They weigh on small models.
4. Layers of one op that differ in width: something else ran on the machine. Draw it again.

## Comparing two

```sh
tritium flamegraph -m demo --device cpu --output-dir build/before
tritium flamegraph -m demo --device cpu --output-dir build/after
tritium flamegraph diff build/before/flamegraphs/phase2_10tok.collapsed build/after/flamegraphs/phase2_10tok.collapsed
```

The picture has the frames of the second; red ones took longer than in the first, blue ones less, the fuller the color the larger
the change. `--normalize` compares shares instead of times: for two machines, or a machine in two moods. A difference of two
pictures is a hint, not a verdict: for a verdict compare interleaved runs.

Keep the `.collapsed` file of a release in a folder by date and commit: a few kilobytes of text, enough to compare with later.

## Sampling profilers

`--tool perf` and `--tool py-spy` (or `BITNET_FLAMEGRAPH_TOOL`) add pictures of what the system's profilers see: functions of the
native core and of Python, in samples instead of nanoseconds. What is not installed or not permitted is said, with the command
that would help, and the built-in graph is drawn in any case. Nothing is ever installed.

| trouble | what helps |
|---|---|
| perf is not installed | `sudo apt-get install linux-perf` |
| perf may not record | `echo 1 \\| sudo tee /proc/sys/kernel/perf_event_paranoid` |
| py-spy is not installed | `pip install py-spy` |
| py-spy may not attach | `echo 1 \\| sudo tee /proc/sys/kernel/yama/ptrace_scope` |
| frames without names | build with `make build`: a wheel's native core is stripped |
| an empty or tiny graph | sample for longer: `--seconds 10` |
| on macOS | only the built-in graph: DTrace would need an administrator |
"""
