"""Threads of the native executor: any number of them, after fork, and from several Python threads at once."""

from __future__ import annotations

import os
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tritium import _native
from tritium.ir import Buffer, Choice, Operand, Plan, Resident, Step, encode_plan
from tritium.ops import OPS

WIDTH = 256
LIMIT_S = 60


def linear_plan(n: int, max_tokens: int) -> bytes:
    """One linear of WIDTH columns and n rows, scalar kernels, its operands in buffers 0 to 2."""
    sizes = (max_tokens * WIDTH, max_tokens * 64, max_tokens * n * 4)
    buffers = (
        Buffer("q", "i8", "tokens", WIDTH, 0),
        Buffer("scale", "f32", "tokens", 16, sizes[0]),
        Buffer("y", "f32", "tokens", n, sizes[0] + sizes[1]),
    )
    weight = Resident(("w",), "i2s", n, WIDTH, n * WIDTH // 4 + -(-n // 16 * 4 // 64) * 64)
    choices = (Choice("i2s_gemv_scalar", 1, 1, (0,)), Choice("i2s_gemm_scalar", 2, 0, (0,)))
    attrs = {"k": WIDTH, "n": n, "group": 0, "act_bits": 8, "accumulate": 0}
    step = Step("linear", "w", 0, (Operand(0, 0), Operand(1, 0)), (Operand(2, 0),), attrs, choices)
    plan = Plan("", "cpu", "", "", max_tokens, 1, 64, 2, 0, 0, 0, 0, sum(sizes), 1e4, (), buffers, (weight,), (step,))
    return encode_plan(plan, OPS)


class Linear:
    """A program of one linear on random codes, with its expected result."""

    def __init__(self, n_threads: int, n: int = 1040, t: int = 5) -> None:
        rng = np.random.default_rng(1)
        trits = rng.integers(-1, 2, (n, WIDTH), dtype=np.int8)
        packed = _native.pack_trits([(trits, 1.0)])
        self.native = _native.Program(linear_plan(n, t), [packed], 0, n_threads)
        self.t = t
        q = rng.integers(-128, 128, (t, WIDTH), dtype=np.int8)
        self.native.buffer(0)[:] = q
        self.native.buffer(1)[:, 0] = 1
        self.expected = (q.astype(np.int32) @ trits.T.astype(np.int32)).astype(np.float32)

    def step(self) -> int:
        rows: NDArray[np.int32] = np.zeros(self.t, np.int32)
        no_outputs: NDArray[np.int32] = np.zeros(0, np.int32)
        return self.native.step(_native.Request(rows, rows, rows, np.zeros((1, 1), np.int32), no_outputs, 0))

    def right(self) -> bool:
        """Whether a step gives the expected numbers."""
        self.native.buffer(2)[:] = np.nan
        return self.step() == 0 and bool((self.native.buffer(2) == self.expected).all())


@pytest.mark.parametrize("n_threads", [1, 2, 3, 5, 16, 64])
@pytest.mark.parametrize("t", [1, 5])
def test_any_number_of_threads_gives_the_same(n_threads: int, t: int) -> None:
    linear = Linear(n_threads, t=t)
    assert linear.native.n_threads == n_threads
    assert all(linear.right() for _ in range(5))


@pytest.mark.parametrize("n_threads", [0, -1, 1025])
def test_a_senseless_number_of_threads_is_refused(n_threads: int) -> None:
    with pytest.raises(ValueError, match="n_threads: expected 1 to 1024"):
        Linear(n_threads)


def test_programs_come_and_go_with_their_threads() -> None:
    before = len(threads_of_this_process())
    for n_threads in (2, 7, 3):
        linear = Linear(n_threads)
        assert linear.right()
        assert len(threads_of_this_process()) == before + n_threads - 1
        del linear
        assert len(threads_of_this_process()) == before


def threads_of_this_process() -> list[str]:
    tasks = "/proc/self/task"
    if not os.path.isdir(tasks):
        pytest.skip("the system does not list a process's threads")
    return os.listdir(tasks)


def test_programs_side_by_side() -> None:
    programs = [Linear(n_threads) for n_threads in (2, 3, 2)]
    assert all(linear.right() for _ in range(5) for linear in programs)


def test_a_step_after_a_pause_long_enough_to_sleep() -> None:
    linear = Linear(3)
    for _ in range(3):
        time.sleep(0.02)
        assert linear.right()


def test_threads_stay_awake_between_steps() -> None:
    before = set(threads_of_this_process())
    linear = Linear(2)
    (worker,) = set(threads_of_this_process()) - before
    n_steps, slept = 200, -times_asleep(worker)
    for _ in range(n_steps):
        assert linear.step() == 0
        until = time.perf_counter() + 2e-4
        while time.perf_counter() < until:
            pass
    assert slept + times_asleep(worker) < n_steps / 4


def times_asleep(thread: str) -> int:
    """How often a thread of this process gave its core up because it had nothing to do."""
    status = Path(f"/proc/self/task/{thread}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))


def in_child(work: Any) -> int:
    """Exit status of a forked child that runs ``work``; −1 if it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_parent_and_child_both_go_on_after_fork() -> None:
    linear = Linear(3)
    assert linear.right()
    assert in_child(lambda: linear.right() and linear.right()) == 0
    assert linear.right()

    def drop() -> bool:
        del linear.native
        return True

    assert in_child(drop) == 0
    assert linear.right()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_forked_during_a_step_can_step() -> None:
    linear = Linear(2, n=4096, t=256)
    running = threading.Thread(target=linear.step)
    running.start()
    status = in_child(linear.right)
    running.join()
    assert status == 0
    assert linear.right()


def test_a_second_step_at_the_same_time_is_refused() -> None:
    linear = Linear(2, n=4096, t=256)
    results: list[int | str] = []
    start = threading.Barrier(3)

    def run() -> None:
        start.wait()
        for _ in range(4):
            try:
                results.append(linear.step())
            except RuntimeError as error:
                results.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(results) == {0, "another thread is in a step of this program"}
    assert linear.native.totals()[0] == results.count(0)
    assert linear.right()


def test_counters_can_be_read_during_a_step() -> None:
    linear = Linear(2, n=4096, t=64)
    running = threading.Thread(target=lambda: [linear.step() for _ in range(4)])
    running.start()
    seen = [linear.native.totals()[0]]
    while running.is_alive():
        seen.append(linear.native.totals()[0])
        time.sleep(0.001)
    running.join()
    assert seen == sorted(seen)
    assert linear.native.totals()[0] == 4
    assert linear.native.counters()[1, 2:4].tolist() == [4, 4 * 4096 * WIDTH * 64]


def test_bandwidth_is_a_plausible_number() -> None:
    for n_threads in (1, 2):
        assert 0.1 < _native.read_bandwidth(n_threads, 1 << 24) < 5000
    with pytest.raises(ValueError, match="nbytes"):
        _native.read_bandwidth(1, 64)
