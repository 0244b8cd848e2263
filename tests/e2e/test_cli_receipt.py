"""Receipts from the command line: written by a run, judged by the installed command and by the standard library alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import tritium

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "tdd" / "receipts"
POSITIVE = EXAMPLES / "cpu_positive_example.json"

# Judges with nothing but the standard library: whatever else is asked for is not there.
ALONE = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"numpy", "click", "rich", "jinja2", "tokenizers"} or name == "tritium._native":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
from tritium.gates.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_run_writes_a_receipt_that_stands(tmp_path: Path) -> None:
    path = tmp_path / "new" / "receipt.json"
    run = tritium("run", "-m", "demo", "ROMEO:", "-n", "24", "--receipt", path, "--repeats", "3")
    assert run.returncode == 0, run.stderr
    assert f"receipt {path}" in run.stderr
    receipt = json.loads(path.read_text(encoding="utf-8"))
    assert (receipt["compute_path"], receipt["deterministic"], receipt["tokens_generated"]) == ("real", True, 24)
    assert receipt["evidence"]["run"]["n_prompt"] == len(receipt["evidence"]["run"]["prompt_ids"])
    judged = tritium("verify-receipt", path, "--require", "kernels=E3,model=E3,output=E1,determinism=E1")
    assert judged.returncode == 0, judged.stdout
    assert "accepted" in judged.stdout
    assert list(path.parent.iterdir()) == [path]


def test_the_seed_and_the_model_of_the_environment_are_used(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    run = tritium("run", "a", "-n", "4", "--temperature", "1", "--receipt", path, BITNET_SEED="77", BITNET_GGUF="demo",
                  BITNET_DETERMINISTIC="1", BITNET_STRICT_MODE="1", RAYON_NUM_THREADS="1")  # fmt: skip
    assert run.returncode == 0, run.stderr
    receipt = json.loads(path.read_text(encoding="utf-8"))
    assert receipt["evidence"]["sampling"]["seed"] == "77"
    assert receipt["evidence"]["run"]["threads"] == 1
    assert receipt["deterministic"] is True
    assert receipt["environment"]["BITNET_SEED"] == "77"
    assert tritium("run", "a", BITNET_SEED="x").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "environment", "code"),
    [
        (("--backend", "null"), {}, 5),
        (("--backend", "null"), {"BITNET_STRICT_MODE": "1"}, 5),
        (("--max-tokens", "0"), {}, 2),
        (("-m", "missing.gguf"), {}, 3),
    ],
)
def test_a_run_that_fails_or_computes_nothing_writes_none(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], code: int
) -> None:
    path = tmp_path / "receipt.json"
    run = tritium("run", "ROMEO:", "-n", "4", *arguments, "--receipt", path, **environment)
    assert run.returncode == code
    assert not list(tmp_path.iterdir())


def test_strict_mode_judges_a_run_without_a_receipt() -> None:
    assert tritium("run", "a", "-n", "4", BITNET_STRICT_MODE="1").returncode == 0
    refused = tritium("run", "a", "-n", "4", "--backend", "null", BITNET_STRICT_MODE="1")
    assert refused.returncode == 5
    assert "a back end that computes" in refused.stderr


def test_the_standard_library_is_enough_to_judge() -> None:
    alone = subprocess.run([sys.executable, "-c", ALONE, POSITIVE], capture_output=True, encoding="utf-8", check=False)
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout == tritium("verify-receipt", POSITIVE).stdout
    module = subprocess.run([sys.executable, "-m", "tritium.gates", EXAMPLES / "cpu_negative_example.json"],
                            capture_output=True, encoding="utf-8", check=False)  # fmt: skip
    assert module.returncode == 1
    assert "FAIL E0 compute_path: got mock, expected real" in module.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("negative_*.json")), ids=lambda path: path.stem)
def test_a_negative_example_has_one_fault(path: Path) -> None:
    result = tritium("verify-receipt", "--path", path, "--json")
    assert result.returncode == 1
    failed = {check["id"] for check in json.loads(result.stdout)["checks"] if check["status"] == "FAIL"}
    # A value outside the schema fails there as well.
    assert failed - {"schema"} == {path.stem.removeprefix("negative_")}


def test_all_faults_of_the_historic_example_are_told() -> None:
    result = tritium("verify-receipt", EXAMPLES / "historic_negative_example.json")
    assert result.returncode == 1
    for check in ("compute_path", "kernels", "environment", "timestamp", "test_results", "speed_value"):
        assert f"FAIL E0 {check}:" in result.stdout


def test_the_negative_examples_are_as_written() -> None:
    script = ROOT / "scripts" / "write_negative_receipts.py"
    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0


def test_exit_codes(tmp_path: Path) -> None:
    assert tritium("verify-receipt", tmp_path / "missing.json").returncode == 3
    assert tritium("verify-receipt", tmp_path).returncode == 3
    assert tritium("verify-receipt", POSITIVE, "--require", "speed=E9").returncode == 2
    assert tritium("verify-receipt", POSITIVE, "--path", POSITIVE).returncode == 2
    assert tritium("verify-receipt", POSITIVE, "--require", "output=E6").returncode == 8
    assert tritium("verify-receipt", POSITIVE, "--require-gpu-kernels").returncode == 1
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    assert tritium("verify-receipt", tmp_path / "broken.json").returncode == 1


def test_the_default_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tritium("verify-receipt").returncode == 3
    (tmp_path / "ci").mkdir()
    shutil.copy(POSITIVE, tmp_path / "ci" / "inference.json")
    assert tritium("verify-receipt").returncode == 0


def test_a_folder_is_judged_file_by_file(tmp_path: Path) -> None:
    shutil.copy(POSITIVE, tmp_path / "one.json")
    assert tritium("verify-receipt", tmp_path).returncode == 0
    shutil.copy(POSITIVE, tmp_path / "same.json")
    copied = tritium("verify-receipt", tmp_path)
    assert copied.returncode == 1
    assert "FAIL E1 copied_times" in copied.stdout


def test_a_policy_of_ones_own(tmp_path: Path) -> None:
    shipped = ROOT / "src" / "tritium" / "gates" / "policy.toml"
    text = shipped.read_text(encoding="utf-8")
    strict = tmp_path / "strict.toml"
    strict.write_text(text.replace("rate_tolerance = 0.005", "rate_tolerance = 0.0"), encoding="utf-8")
    result = tritium("verify-receipt", POSITIVE, "--policy", strict, "--json")
    assert result.returncode == 1
    assert (
        json.loads(result.stdout)["policy_sha256"]
        != json.loads(tritium("verify-receipt", POSITIVE, "--json").stdout)["policy_sha256"]
    )
    strict.write_text(text.replace("rate_tolerance", "rate_tolerances"), encoding="utf-8")
    refused = tritium("verify-receipt", POSITIVE, "--policy", strict)
    assert refused.returncode == 4
    assert "rate_tolerance" in refused.stderr
