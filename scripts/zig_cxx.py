"""clang++ out of the Python package ziglang, which takes processors by names of its own where others take -march."""

from __future__ import annotations

import subprocess
import sys

arguments = [each.replace("-march=armv8.2-a", "-mcpu=generic+v8_2a") for each in sys.argv[1:]]
sys.exit(subprocess.run([sys.executable, "-m", "ziglang", "c++", *arguments], check=False).returncode)
