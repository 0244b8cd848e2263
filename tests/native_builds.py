"""Other builds of the native core, below ``build/``, and how a process runs on one of them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import tritium

ROOT = Path(__file__).resolve().parents[1]


def build(name: str, *options: str) -> Path:
    """Build the native module in ``build/<name>`` with further options of cmake; its path. What is current stays."""
    folder = ROOT / "build" / name
    configure = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
    for command in (
        [*configure, f"-DPython_EXECUTABLE={sys.executable}", *options],
        ["cmake", "--build", folder, "--target", "_native"],
    ):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
    return next(folder.glob("_native.*.so"))


def build_with_clang() -> Path:
    """The native module as clang compiles it."""
    return build("clang", "-DCMAKE_CXX_COMPILER=clang++")


def use(path: Path) -> None:
    """Let this process run on the native module at ``path``. To be called before anything of tritium imports its own."""
    name = "tritium._native"
    assert name not in sys.modules, "another native module is loaded"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    tritium._native = module  # type: ignore[attr-defined]
