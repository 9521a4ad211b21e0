"""Processes that end while threads are in an engine. Each is one of its own: before, they aborted."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, os, sys, threading, time
import numpy as np
import wdsr_edge

backend, end, way, kind = sys.argv[1:5]
sr = wdsr_edge.load("wdsr-b-1x32-x2", backend=backend)
frame, begun, stop = np.zeros((128, 128, 3), np.uint8), threading.Semaphore(0), time.monotonic() + 0.3

def work():
    while kind == "daemon" or time.monotonic() < stop:
        begun.release()
        if way == "call":
            sr(frame)
        elif way == "result":
            sr.submit(frame).result()
        elif way == "submit":
            sr.submit(frame)
        elif way == "float":
            sr(np.zeros((300, 900), np.float32))
        else:
            with wdsr_edge.load("wdsr-b-1x32-x2", backend=backend) as other:
                other(frame[:8, :8])
    os.write(1, b"thread done\\n")

for _ in range(2):
    threading.Thread(target=work, daemon=kind == "daemon").start()
for _ in range(3):
    begun.acquire(timeout=1)  # a thread that is slow may come here once
if end == "exit":
    sys.exit(3)
if end == "raise":
    raise ValueError("mine")
if end == "ctrl-c":
    raise KeyboardInterrupt
"""
WAYS = ("call", "result", "submit", "float", "load")
CODES = {"exit": 3, "raise": 1, "return": 0, "ctrl-c": -2}
SAYS = {"exit": "", "raise": "ValueError: mine", "return": "", "ctrl-c": "KeyboardInterrupt"}


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def ends_well(backend: str, end: str, way: str, kind: str) -> None:
    done = run(PROGRAM, backend, end, way, kind)
    assert done.returncode == CODES[end], done.stderr
    assert done.stderr.strip().rpartition("\n")[2] == SAYS[end]
    assert "Exception in thread" not in done.stderr
    assert done.stdout == ("" if kind == "daemon" else "thread done\n" * 2)


@pytest.mark.parametrize(
    ("backend", "end", "way", "kind"),
    [
        ("onnxruntime", "exit", "call", "daemon"),
        ("openvino", "raise", "call", "daemon"),
        ("openvino", "return", "submit", "daemon"),
        ("onnxruntime", "ctrl-c", "result", "daemon"),
        ("onnxruntime", "return", "submit", "other"),
        ("openvino", "exit", "result", "other"),
    ],
)
def test_a_process_ends_as_it_should_whatever_its_threads_do(backend: str, end: str, way: str, kind: str) -> None:
    """No abort, no hang, the right exit code, and nothing on stderr but its own error."""
    ends_well(backend, end, way, kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "end", "way", "kind"),
    [*itertools.product(("onnxruntime", "openvino"), CODES, WAYS, ("daemon", "other"))],
)
def test_every_way_to_end_amid_every_call_many_times(backend: str, end: str, way: str, kind: str) -> None:
    for _ in range(3):
        ends_well(backend, end, way, kind)


LATER = """
import atexit, threading
import numpy as np
import wdsr_edge

frame = np.zeros((64, 64, 3), np.uint8)

@atexit.register
def before_it_was_loaded():
    for call in (sr, sr.submit):
        try:
            call(frame)
        except wdsr_edge.BackendError as error:
            print(error)
    for ticket in tickets:
        try:
            print(ticket.result(20).shape)
        except wdsr_edge.DroppedError as error:
            print("dropped")
    with wdsr_edge.load("wdsr-b-1x32-x2", backend="onnxruntime") as another:
        print(another(frame).shape)

sr = wdsr_edge.load("wdsr-b-1x32-x2", backend="onnxruntime", queue_size=100)

@atexit.register
def after_it_was_loaded():
    print(sr(frame).shape)

tickets = [sr.submit(np.zeros((256, 256, 3), np.uint8)) for _ in range(100)]
"""


def test_handlers_at_exit_see_an_open_one_or_a_closed_one_and_never_wait_for_ever() -> None:
    """Handlers run in reverse: what was registered after ``load`` can still use it, what came before cannot."""
    done = run(LATER)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:3] == ["(128, 128, 3)", *["this SuperResolver is closed: load it again"] * 2]
    assert lines[-2:] == ["dropped", "(128, 128, 3)"]
    assert len(lines) == 104


FORK = """
import atexit, os, sys, threading, time
import numpy as np
import wdsr_edge
from wdsr_edge.config import ModelConfig

frame = np.zeros((32, 32, 3), np.uint8)
go, inside = threading.Event(), threading.Event()

class Stuck:
    def run(self, batch):
        inside.set()
        go.wait()
        return batch.repeat(2, 1).repeat(2, 2)
    def close(self):
        print("closed", "in the child" if os.getpid() != parent else "in the parent", flush=True)

parent = os.getpid()
sr = wdsr_edge.SuperResolver(Stuck(), ModelConfig.from_name("wdsr-b-1x8-x2"), open_float_session=Stuck)
ticket = sr.submit(frame)
inside.wait()
child = os.fork()
if child == 0:
    try:
        ticket.result(20)
    except wdsr_edge.BackendError as error:
        print(error, flush=True)
    sys.exit(5)
go.set()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_forked_child_ends_without_the_parents_calls() -> None:
    """It neither waits for threads that it does not have, nor closes what is not its own."""
    done = run(FORK)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "this ticket belongs to the parent process: submit the frame in this one",
        "5",
        "closed in the parent",
    ]


STUCK = """
import threading, time
import numpy as np
from wdsr_edge import SuperResolver, _at_exit
from wdsr_edge.config import ModelConfig

_at_exit.PATIENCE_S = 0.3
inside = threading.Event()

class Stuck:
    def run(self, batch):
        inside.set()
        threading.Event().wait()
    def close(self):
        print("closed under a call")

sr = SuperResolver(Stuck(), ModelConfig.from_name("wdsr-b-1x8-x2"), open_float_session=Stuck)
threading.Thread(target=sr, args=(np.zeros((2, 2, 3), np.uint8),), daemon=True).start()
inside.wait()
"""


def test_an_engine_that_never_comes_back_does_not_keep_the_process() -> None:
    done = run(STUCK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FIRST = """
import os, sys, threading
import numpy as np
import wdsr_edge
resolvers = [wdsr_edge.load("wdsr-b-1x32-x2", backend="openvino") for _ in range(4)]
meet = threading.Barrier(4)
sys.setswitchinterval(1e-6)
def call(sr):
    meet.wait()
    sr(np.zeros((8, 8, 3), np.uint8))
threads = [threading.Thread(target=call, args=(sr,), daemon=True) for sr in resolvers]
for thread in threads: thread.start()
for thread in threads: thread.join(10)
os._exit(any(thread.is_alive() for thread in threads))
"""


@pytest.mark.slow
def test_threads_may_be_openvinos_first_at_the_same_time() -> None:
    """Its bindings set themselves up in the first call, in a way in which two threads wait for each other for ever."""
    assert [run(FIRST).returncode for _ in range(25)] == 25 * [0]
