"""The parity harness is itself tested: it rejects kernels that are wrong in one small way, exactly those, and no right one.

A mutant is one exact replacement in a copy of csrc/. Its kernel unit is compiled again and linked with the objects of the build
tree, and with a registry that lets kernels through without the self-test of the start, so that the harness alone has to judge.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tritium.backends.cpu import isas
from workshop import ROOT, Workshop, open_workshop

QUANTIZERS = {"rmsnorm_quantize", "quantize_activations"}
CODERS = QUANTIZERS | {"rope_apply_int8"}
ATTENTIONS = {"attention_real", "attention_int8"}
LINEARS = {"i2s_gemv", "i2s_gemm"}
TRITS = {"tq1_gemv", "tq1_gemm"}
GROUPS = {"i2s_groups_gemv", "i2s_groups_gemm"}
PROJECTIONS = {f"logits_projection_{layout}" for layout in ("f32", "f16", "bf16", "q8_0", "q6_k")}
BLOCKED = {f"{op}_{layout}" for op in ("logits_projection", "threshold", "rescore") for layout in ("q8_0", "q6_k")}
THRESHOLDS = {f"threshold_{layout}" for layout in ("f32", "f16", "bf16", "q8_0", "q6_k")}
RESCORES = THRESHOLDS | {f"rescore_{layout}" for layout in ("f32", "f16", "bf16", "q8_0", "q6_k")}
SUMMING = {"rmsnorm", "rmsnorm_quantize", "tail_weights"} | ATTENTIONS | PROJECTIONS | RESCORES
AWAY = "_mm256_cvttps_epi32(_mm256_add_ps({0}, _mm256_or_ps(_mm256_and_ps({0}, _mm256_set1_ps(-0.0f)), _mm256_set1_ps(0.5f))))"


@dataclass(frozen=True)
class Mutant:
    """``old`` becomes ``new`` in ``file`` for one instruction set; ``wrong`` are the kernels that then compute something else."""

    isa: str
    file: str
    old: str
    new: str
    wrong: set[str]


MUTANTS = {
    # 64 additions fit an int16, 65 do not; a block makes 4, so the next number after 64 is 68.
    "flushed_too_late": Mutant(
        "avx2", "generic/dot_avx2.h", "kFlushBlocks = 16;", "kFlushBlocks = 17;", LINEARS | {"i2s_rows_gemv", "i2s_rows_gemm"}
    ),
    "lane_dropped": Mutant(
        "avx2", "generic/lanes_avx2.h", "_mm256_add_ps(a.lo, a.hi)",
        "_mm256_add_ps(a.lo, _mm256_blend_ps(a.hi, _mm256_setzero_ps(), 0x80))", SUMMING,
    ),
    "rounded_half_away": Mutant(
        "avx2", "generic/lanes_avx2.h", "_mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi))",
        f"_mm256_packs_epi32({AWAY.format('a.lo')}, {AWAY.format('a.hi')})", CODERS,
    ),
}  # fmt: skip
MORE_MUTANTS = {
    "lane_of_the_sum_of_activations_dropped": Mutant(
        "avx2", "generic/linear_avx2.h", "_mm_cvtsi128_si64(s) + _mm_extract_epi64(s, 1)", "_mm_cvtsi128_si64(s)",
        LINEARS | TRITS | GROUPS,
    ),
    "scale_of_the_first_panel": Mutant(
        "avx2", "generic/linear_avx2.h", "panels.scales[p]", "panels.scales[p + 1]", LINEARS | TRITS
    ),
    "order_of_a_norm_s_products": Mutant(
        "avx2", "generic/norm.h", "(load(x + i) * splat(inv)) * g", "load(x + i) * (splat(inv) * g)",
        {"rmsnorm", "rmsnorm_quantize"},
    ),
    "activations_divided_by_the_scale": Mutant(
        "avx2", "generic/norm.h", "value(i) * inv_scale", "value(i) / splat(absmax / 127.0f)", CODERS
    ),
    "padding_left_as_it_was": Mutant("avx2", "generic/norm.h", "std::memset(q + i, 0, 16);", ";", QUANTIZERS),
    "row_written_beyond_its_end": Mutant("avx2", "generic/norm.h", "i % 64 != 0;", "i < (k + 64) / 64 * 64;", QUANTIZERS),
    "cache_rounded_toward_zero": Mutant(
        "avx2", "generic/lanes_avx2.h", "_mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT)",
        "_mm256_cvtps_ph(a.hi, _MM_FROUND_TO_ZERO)", {"rope_apply"},
    ),
    "overflow_of_the_cache_unseen": Mutant(
        "avx2", "generic/rope.h", "if (!key_fits || !value_fits)", "if (!key_fits)",
        {"rope_apply", "rope_apply_int8"},
    ),
    "key_forgotten": Mutant(
        "avx2", "generic/attention.h", "positions[first_row + r] + 1;",
        "positions[first_row + r] + (call.batch.positions[first_row + r] < 500);", ATTENTIONS,
    ),
    "splits_merged_without_the_maximum": Mutant(
        "avx2", "generic/attention.h", "b = exp(more - top)", "b = splat(1.0f)", ATTENTIONS
    ),
    "negative_gates_pass": Mutant("avx2", "generic/glu.h", "max(load(gate + i), splat(0.0f))", "load(gate + i)", {"relu2_mul"}),
    "order_of_a_gate_s_products": Mutant(
        "avx2", "generic/glu.h", "(g / divisor) * load(up + i)", "(g * load(up + i)) / divisor", {"silu_mul"}
    ),
    "ties_to_the_higher_id": Mutant(
        "avx2", "generic/select.h", "id_a > id_b", "id_a < id_b", {"select_topk"} | THRESHOLDS
    ),
    "tail_of_a_row_ignored": Mutant(
        "avx2", "generic/logits.h", "if (cols % 16 != 0)", "if (cols % 16 > 1)", (PROJECTIONS | RESCORES) - BLOCKED
    ),
    "bounds_without_what_rounding_left": Mutant(
        "avx2", "generic/screen.h", "(splat(probe.residual_factor) * residual + splat(probe.norm_factor) * norm)",
        "(splat(probe.norm_factor) * norm)", {"screen_plane44"},
    ),
    "better_bounds_without_what_rounding_left": Mutant(
        "avx2", "generic/screen.h", "(probe.residual_factor * row[1] + probe.norm_factor * row[2])",
        "(probe.norm_factor * row[2])", {"refine_plane44"},
    ),
    "threshold_of_the_best_alone": Mutant(
        "avx2", "generic/rescore.h", "least = logit < least ? logit : least;", "least = i == 0 ? logit : least;",
        THRESHOLDS,
    ),
    "sixteen_codes_more_than_int16_holds": Mutant(
        "avx2", "generic/dot_avx2.h", "kCodeFlush = 8;", "kCodeFlush = 24;", {"screen_plane44"},
    ),
    "bytes_not_counted": Mutant(
        "avx2", "generic/logits.h", "work.bytes += static_cast<uint64_t>(n_rows * bytes);", "", PROJECTIONS
    ),
    "logical_shift_of_negative_sums": Mutant(
        "avx512vnni", "generic/dot_avx512.h", "_mm512_srai_epi32(planes.sum", "_mm512_srli_epi32(planes.sum",
        LINEARS | GROUPS,
    ),
    "products_of_scales_last": Mutant(
        "avx2", "generic/groups.h", "(from_i32(sums) - splat(total)) * (splat(scale) * scales_w)",
        "((from_i32(sums) - splat(total)) * splat(scale)) * scales_w", GROUPS,
    ),
    "scales_of_the_first_group": Mutant(
        "avx2", "generic/groups.h", "load(panels.scales(p, g))", "load(panels.scales(p, 0))", GROUPS
    ),
    "panels_of_a_tile_twice_the_left_ones": Mutant(
        "avx512vnni", "generic/linear_avx512.h", "(s.right, codes.right, a)", "(s.right, codes.left, a)", {"i2s_gemm"},
    ),
    "codes_kept_in_each_others_place": Mutant(
        "avx512vnni", "generic/linear_avx512.h", "(codes + kCodeBytes / 4 * j));", "(codes + kCodeBytes / 4 * (j ^ 1)));",
        {"i2s_gemm"},
    ),
    "upper_bit_pairs_not_shifted_down": Mutant(
        "avx512vnni", "generic/linear_avx512.h", "_mm512_srli_epi32(w, 4)", "_mm512_srli_epi32(w, 2)",
        {"i2s_gemm", "i2s_groups_gemm"},
    ),
    "tokens_in_each_others_place": Mutant(
        "avx512vnni", "generic/linear_avx512.h", "(b * n + t) * kPanelDepth", "(b * n + n - 1 - t) * kPanelDepth", {"i2s_gemm"},
    ),
    "lower_bit_pairs_of_columns_left_in": Mutant(
        "avx512vnni", "generic/sparse.h", "if (pair > 0) sums -= lower;", "", {"i2s_columns_gemv", "i2s_columns_gemm"},
    ),
    "digits_past_the_last_row_of_activations": Mutant(
        "avx512vnni", "generic/trits_avx512.h", "(s, panel + kGroupBytes * n_whole, 1, tail, kTritDepth)",
        "(s, panel + kGroupBytes * n_whole, 1, tail, 0)", {"tq1_gemm"},
    ),
    "fifth_digits_not_divided": Mutant(
        "avx512vnni", "generic/trits_avx512.h",
        "_mm512_mullo_epi32(sum, _mm512_set1_epi32(static_cast<int>(inverse_of(kFifthDigit))))",
        "_mm512_srai_epi32(sum, 6)", TRITS,
    ),
    "fifth_digits_in_another_s_place": Mutant(
        "avx512vnni", "generic/trits_avx512.h", "last + 8, stride", "last + 4, stride", TRITS
    ),
    "remainders_of_another_number": Mutant(
        "avx2", "generic/trits_avx2.h", "modulo(three, 9)", "modulo(three, 10)", TRITS
    ),
    "digits_flushed_too_late": Mutant(
        "avx2", "generic/linear_avx2.h", "kFlushBlocks / kGroupBlocks * kGroupBlocks",
        "(kFlushBlocks / kGroupBlocks + 1) * kGroupBlocks", TRITS,
    ),
    "tables_of_other_fifth_digits": Mutant(
        "avx2", "generic/tables_avx2.h", "(4 * kPanelDepth + quarter)", "(4 * kPanelDepth)", {"i2s_gemm", "tq1_gemm"}
    ),
    "rows_of_a_transpose_exchanged": Mutant(
        "avx2", "generic/tables_avx2.h", "permute2x128_si256(a[i], a[i + 4], 0x31)",
        "permute2x128_si256(a[i], a[i + 4], 0x13)", {"i2s_gemm", "tq1_gemm"},
    ),
    "truncated_codes": Mutant(
        "avx512vnni", "generic/lanes_avx512.h", "_mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v))",
        "_mm512_cvtsepi32_epi8(_mm512_cvttps_epi32(a.v))", CODERS,
    ),
    "sum_in_another_order": Mutant(
        "scalar", "generic/lanes_scalar.h", "(x.a + x.c) + (x.b + x.d)", "(x.a + x.b) + (x.c + x.d)", SUMMING
    ),
    "cache_rounded_half_up": Mutant("scalar", "generic/lanes_scalar.h", "0xFFFu + odd", "0x1000u", {"rope_apply"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("mutants"))


def rejected(module: Path, isa: str) -> set[str]:
    """The kernels of an instruction set, without its name, that the parity harness finds wrong in a native module."""
    tests = ROOT / "tests" / "parity" / "test_kernels.py"
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--tb=no", "-p", "no:xdist", "--native", module, tests]
    only = ["-k", f"gives_the_bits and _{isa}]"]
    done = subprocess.run([*command, *only], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = set(re.findall(rf"^FAILED .*\[(\w+)_{isa}\]", done.stdout, re.MULTILINE))
    assert bool(found) == bool(done.returncode), done.stdout
    return found


def test_every_mutant_finds_the_text_that_it_replaces() -> None:
    """At every change of a kernel, not only where the mutant is made."""
    for name, mutant in (MUTANTS | MORE_MUTANTS).items():
        assert (ROOT / "csrc" / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1, (
            f"{name} needs a new text"
        )


def check(workshop: Workshop, name: str, mutant: Mutant) -> None:
    if mutant.isa not in isas():
        pytest.skip(f"{mutant.isa} does not run here")
    changed = workshop.compile(mutant.file, mutant.old, mutant.new, unit=f"isa/{mutant.isa}.cpp")
    assert rejected(workshop.link_with(name, workshop.permissive, changed), mutant.isa) == mutant.wrong


def check_control(workshop: Workshop, isa: str) -> None:
    """The workshop itself breaks nothing."""
    unit = f"isa/{isa}.cpp"
    same = workshop.compile(unit, 'kernel_table.h"\n', 'kernel_table.h" \n', unit=unit)
    assert rejected(workshop.link_with(f"right_{isa}", workshop.permissive, same), isa) == set()


@pytest.mark.parametrize("isa", sorted({mutant.isa for mutant in MUTANTS.values()} & set(isas())))
def test_right_kernels_pass(workshop: Workshop, isa: str) -> None:
    check_control(workshop, isa)


@pytest.mark.skipif("avx512vnni" not in isas(), reason="avx512vnni does not run here")
@pytest.mark.parametrize(
    ("file", "asks", "never"),
    [
        ("generic/trits_avx512.h", "if (has_byte_permutes())", "if (has_byte_permutes() && false)"),
        ("generic/linear_avx512.h", "n * depth <= room", "n * depth < 0"),
    ],
    ids=["byte permutes", "room"],
)
def test_results_are_right_without(workshop: Workshop, file: str, asks: str, never: str) -> None:
    """Byte permutes take 1.6-bit panels apart another way, and rows beyond 2^16 leave no room for activations side by side."""
    changed = workshop.compile(file, asks, never, unit="isa/avx512vnni.cpp")
    assert rejected(workshop.link_with("without", workshop.permissive, changed), "avx512vnni") == set()


@pytest.mark.nightly
@pytest.mark.parametrize("isa", isas())
def test_all_right_kernels_pass(workshop: Workshop, isa: str) -> None:
    check_control(workshop, isa)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_kernel_is_rejected(workshop: Workshop, name: str) -> None:
    check(workshop, name, MUTANTS[name])


@pytest.mark.nightly
@pytest.mark.parametrize("name", MORE_MUTANTS)
def test_many_wrong_kernels_are_rejected(workshop: Workshop, name: str) -> None:
    check(workshop, name, MORE_MUTANTS[name])
