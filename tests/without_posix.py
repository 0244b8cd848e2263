"""Run commands as on Windows, as far as that can be had elsewhere: what only POSIX has is taken away, msvcrt and psapi answer.

``python tests/without_posix.py FILE``: the file lists command lines as JSON; standard output gets a line of JSON for each, its
exit code and what it wrote. Texts must name their encoding: the system's default would be another.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import importlib
import io
import json
import mmap
import os
import pkgutil
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy

MODULES = ("fcntl", "grp", "pwd", "readline", "resource", "syslog", "termios", "tty", "pty")
OF_OS = (
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "chown", "fchmod", "fchown", "fork", "forkpty", "getegid",
    "geteuid", "getgid", "getgroups", "getloadavg", "getuid", "killpg", "mkfifo", "mknod", "nice", "posix_fadvise", "pread",
    "pwrite", "sched_getaffinity", "sched_setaffinity", "setsid", "statvfs", "sysconf", "uname", "wait4",
)  # fmt: skip
OF_SIGNAL = ("SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGSTOP", "SIGTSTP", "SIGUSR1", "setitimer", "pthread_sigmask")
EXTRAS = {"torch", "transformers", "llama_cpp", "matplotlib", "cryptography"}
PEAK_BYTES = 123 << 20
LOADED_BEFORE = (numpy, shutil, subprocess, tempfile)
"""They choose their system on import."""
LOCKED: list[int] = []


def take_away() -> None:
    """Remove what only POSIX has from what is loaded and from what can be."""
    machine = {"x86_64": "AMD64", "aarch64": "ARM64"}[platform.machine()]
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL), (socket, ("AF_UNIX",))):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in [name for name in dir(mmap) if name.startswith(("MADV_", "MAP_", "PROT_"))]:
        delattr(mmap, name)
    opened, described = io.open, os.open

    def open_(
        file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, *more: Any, **named: Any
    ) -> Any:
        if str(file).startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(2, "No such file or directory", str(file))
        if "b" not in mode:
            encoding = io.text_encoding(encoding)  # warns in the caller's name
        return opened(file, mode, buffering, encoding, *more, **named)

    def open_descriptor(path: Any, *arguments: Any, **options: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return described(path, *arguments, **options)

    builtins.open = io.open = open_
    os.open = open_descriptor  # type: ignore[assignment]
    for name, text in (("system", "Windows"), ("release", "11"), ("machine", machine)):
        setattr(platform, name, lambda text=text: text)


def answer_for_windows() -> None:
    """The two interfaces of Windows that the package asks."""

    def tell_memory(_process: Any, counters: Any, size: int) -> int:
        assert size == counters._obj.size == 8 + 8 * ctypes.sizeof(ctypes.c_size_t)
        counters._obj.peak_working_set = PEAK_BYTES
        return 1

    class Kernel32:
        GetCurrentProcess = type("Function", (), {"restype": None, "__call__": lambda self: -1})()
        K32GetProcessMemoryInfo = staticmethod(tell_memory)

    ctypes.windll = SimpleNamespace(kernel32=Kernel32())  # type: ignore[attr-defined]
    msvcrt = ModuleType("msvcrt")
    msvcrt.LK_LOCK = 1  # type: ignore[attr-defined]
    msvcrt.locking = lambda descriptor, _mode, _n: LOCKED.append(descriptor)  # type: ignore[attr-defined]
    sys.modules["msvcrt"] = msvcrt


def load_all() -> int:
    """Import every module of the package; what needs an extra that is not there may say so."""
    import tritium

    n = 0
    for info in pkgutil.walk_packages(tritium.__path__, "tritium."):
        if info.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(info.name)
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
        n += 1
    return n


def run(line: list[str]) -> dict[str, Any]:
    from tritium.cli import invoke

    out, log = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(log):
        code = invoke(line)
    texts = []
    for stream in (out, log):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return {"line": line, "code": code, "out": texts[0], "log": texts[1]}


if __name__ == "__main__":
    lines = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    warnings.filterwarnings("error", category=EncodingWarning, module="tritium")
    take_away()
    answer_for_windows()
    print(json.dumps({"modules": load_all()}), flush=True)
    for each in lines:
        print(json.dumps(run(each)), flush=True)
    print(json.dumps({"locks": len(LOCKED)}))
