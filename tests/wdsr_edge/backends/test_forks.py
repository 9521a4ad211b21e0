"""Forked children of a process that has used an engine: they work, or are refused at once, and they end."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from wdsr_edge.backends import ON_CPU, forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

REFUSED = "OpenVINO does not work in a forked process"

PROGRAM = """
import os, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import wdsr_edge

backend = sys.argv[1]
frame = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)

def load(name="wdsr-b-1x32-x2", backend=backend):
    return wdsr_edge.load(name, backend=backend, precision="fp32", threads=2)

def child(title, work):
    "What a child made of it; it ends as a program does, with every destructor and exit handler."
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        try:
            said = "same" if np.abs(work().astype(int) - expected).max() <= 1 else "other pixels"
        except wdsr_edge.BackendError as error:
            said = str(error)
        os.write(write, said.encode())
        sys.exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.close(write)
    print(f"{title}: {os.read(read, 999).decode()} ({code})", flush=True)
    os.close(read)

def closing(sr):
    with sr:
        return sr(frame)

def closes_only(sr):
    sr.close()
    return expected

sr = load()
expected = sr(frame)
child("inherited", lambda: sr(frame))
child("inherited and closed", lambda: closing(sr))
child("closed only", lambda: closes_only(sr))
child("left alone", lambda: expected)
child("loaded beside it", lambda: closing(load()))
child("onnxruntime", lambda: closing(load(backend="onnxruntime")))
child("auto", lambda: closing(load(backend="auto")))
child("two threads", lambda: list(ThreadPoolExecutor(2).map(sr, [frame, frame]))[1])
ended = threading.Event()
worker = threading.Thread(target=lambda: [sr(frame) for _ in iter(ended.is_set, True)])
worker.start()
for _ in range(2):
    child("while it runs", lambda: closing(sr))
ended.set()
worker.join()
assert np.array_equal(sr(frame), expected)
sr.close()
child("loaded after close", lambda: closing(load()))
assert np.array_equal(closing(load()), expected)
"""


@pytest.mark.parametrize("backend", ON_CPU)
def test_children_work_or_are_refused_at_once_and_end(backend: str) -> None:
    pytest.importorskip(backend)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, backend],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [line.split(": ", 1) for line in done.stdout.splitlines()]
    assert len(found) == 11
    for title, said in found:
        assert said.endswith("(0)"), (title, said)
        works = backend == "onnxruntime" or title in ("closed only", "left alone", "onnxruntime", "auto")
        assert said.startswith("same" if works else REFUSED), (title, said)


FIRST_IN_THE_CHILD = """
import os, sys
import numpy as np
import wdsr_edge
import wdsr_edge.backends.openvino

if os.fork() == 0:
    with wdsr_edge.load("wdsr-b-1x32-x2", backend=sys.argv[1]) as sr:
        sys.exit(sr(np.zeros((20, 20, 3), np.uint8)).shape != (40, 40, 3))
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_child_of_a_process_that_has_used_none_works(backend: str) -> None:
    pytest.importorskip(backend)
    command = [sys.executable, "-W", "ignore", "-c", FIRST_IN_THE_CHILD, backend]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


DATA_LOADER = """
import numpy as np
import torch
import wdsr_edge

sr = wdsr_edge.load("wdsr-b-1x32-x2", backend="onnxruntime", precision="fp32", threads=2)

class Frames(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.from_numpy(sr(np.full((40, 50, 3), 40 * index, np.uint8)))

expected = torch.stack([Frames()[index] for index in range(6)])
loader = torch.utils.data.DataLoader(Frames(), 3, num_workers=2, multiprocessing_context="fork")
assert torch.equal(torch.cat(list(loader)), expected)
"""


def test_workers_of_a_data_loader() -> None:
    command = [sys.executable, "-W", "ignore", "-c", DATA_LOADER]
    assert subprocess.run(command, timeout=100, check=False).returncode == 0


def test_a_fork_waits_for_an_engine_that_is_being_opened() -> None:
    program = """
import os, threading, time
from wdsr_edge.backends import forks

held = threading.Event()

def opens():
    with forks.opening:
        held.set()
        time.sleep(0.3)

thread = threading.Thread(target=opens)
thread.start()
held.wait()
start = time.monotonic()
if os.fork() == 0:
    with forks.opening:
        os._exit(0)
assert time.monotonic() - start > 0.2
assert os.wait()[1] == 0
thread.join()
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], timeout=30, check=False).returncode == 0


def test_what_watches_forks_is_not_kept_alive() -> None:
    class One:
        def leave(self) -> None: ...

    before = len(forks._watching)
    one = One()
    forks.watch(one)
    assert len(forks._watching) == before + 1
    del one
    gc.collect()
    assert len(forks._watching) <= before


@pytest.mark.parametrize("backend", ON_CPU)
def test_no_engine_starts_a_process_or_thread_that_reports_its_use(backend: str) -> None:
    pytest.importorskip(backend)
    program = f"""
import os, sys
import wdsr_edge
os.register_at_fork(before=lambda: print("forked", flush=True))
with wdsr_edge.load("wdsr-b-1x32-x2", backend="{backend}", threads=1):
    print(len(os.listdir("/proc/self/task")) if "{backend}" == "onnxruntime" else 1)
assert not any(name.startswith("openvino_telemetry") for name in sys.modules)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "1\n", done.stdout
