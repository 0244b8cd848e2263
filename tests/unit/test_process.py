"""Energy counters and memory as the operating system shows them, on made-up file systems."""

from __future__ import annotations

from pathlib import Path

from tritium.bench.process import AnonymousPeak, Energy
from tritium.resources import memory


def zone(root: Path, name: str, uj: int, most: int = 999) -> Path:
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True)
    for file, text in (("name", "package-0"), ("max_energy_range_uj", str(most)), ("energy_uj", str(uj))):
        (folder / file).write_text(f"{text}\n", encoding="ascii")
    return folder


def test_packages_are_summed_and_a_counter_may_begin_anew(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 100), zone(tmp_path, "intel-rapl:1", 990)
    zone(tmp_path, "intel-rapl:0:0", 7)  # a part of the first, not to be counted twice
    energy = Energy(tmp_path)
    before = energy.read()
    (first / "energy_uj").write_text("150", encoding="ascii")
    (second / "energy_uj").write_text("5", encoding="ascii")
    assert energy.joules(before, energy.read()) == (50 + 15) / 1e6
    assert energy.why_not is None


def test_no_counter_is_told(tmp_path: Path) -> None:
    energy = Energy(tmp_path)
    assert (energy.read(), energy.joules(None, None)) == (None, None)
    assert "no energy counter" in str(energy.why_not)
    (zone(tmp_path, "intel-rapl:0", 1) / "energy_uj").write_text("none", encoding="ascii")
    assert "intel-rapl:0" in str(Energy(tmp_path).why_not)


def test_the_peak_is_seen_while_it_lasts() -> None:
    peak = AnonymousPeak()
    before = memory().anonymous_bytes
    if before is None:
        peak.look()
        assert peak.peak_bytes is None
        return
    with peak:
        block = bytearray(b"x" * (32 << 20))
        peak.look()
        del block
    assert peak.peak_bytes is not None
    assert peak.peak_bytes >= before + (30 << 20)
