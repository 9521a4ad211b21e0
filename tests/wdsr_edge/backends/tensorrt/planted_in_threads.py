"""Bugs that several GPUs, threads or processes bring out, and the garbage collector."""

from __future__ import annotations

from pathlib import Path

from tests.wdsr_edge.backends.tensorrt import test_forks as forks
from tests.wdsr_edge.backends.tensorrt import test_session as session
from tests.wdsr_edge.backends.tensorrt import test_threads as threads
from tests.wdsr_edge.backends.tensorrt.schedules import Bugs, Code, by


def resources(onnx: Path, code: Code, folder: Path) -> None:
    session.test_resources_are_released_by_any_thread(code)


def gpus(onnx: Path, code: Code, folder: Path) -> None:
    session.test_what_a_gpu_is(code)


ELSEWHERE = by(session.test_work_in_other_threads_and_on_the_second_gpu)
SHARED = by(threads.test_threads_share_a_session)
TICKET = by(threads.test_threads_share_a_ticket)
BUILDING = by(threads.test_other_shapes_go_on_while_one_is_built)
CLOSED = by(threads.test_a_session_can_be_closed_during_a_build)
GARBAGE = by(threads.test_garbage_is_not_collected_in_a_capture)
CAPTURES = by(threads.test_two_captures_at_once_keep_the_collector_off)
OTHER_GPU = by(threads.test_garbage_on_another_gpu_does_not_change_that_of_the_thread)
FORKED = by(forks.test_a_forked_child_leaves_the_gpu_alone)
FORK_WAITS = by(forks.test_a_forked_child_waits_for_no_thread_of_its_parent)

BUGS: Bugs = {
    "the first GPU always": (
        "cuda",
        'self.call("cudaSetDevice", self.device)',
        'self.call("cudaSetDevice", 0)',
        ELSEWHERE,
    ),
    "attributes of the first GPU always": (
        "cuda",
        "getattr(self.runtime.cudaDeviceAttr, name), self.device)",
        "getattr(self.runtime.cudaDeviceAttr, name), 0)",
        gpus,
    ),
    "no select in submit": (
        "session",
        "                self._cuda.select()\n                try:\n                    slots =",
        "                try:\n                    slots =",
        ELSEWHERE,
    ),
    "no select in fetch": ("slots", "        self._cuda.select()\n", "", ELSEWHERE),
    "no select in close": (
        "session",
        "            with contextlib.suppress(BackendError):\n                self._cuda.select()\n",
        "",
        ELSEWHERE,
    ),
    "no select when resources are released": (
        "cuda",
        "            self.cuda.select()\n",
        "            pass\n",
        resources,
    ),
    "garbage changes the GPU of a thread": (
        "session",
        "            with self._cuda.unselected():  # garbage is collected amid the work of others\n",
        "            if True:\n",
        OTHER_GPU,
    ),
    "a session takes several calls at once": (
        "session",
        "            with self._lock:\n                if self._closed:",
        "            if True:\n                if self._closed:",
        SHARED,
    ),
    "a ticket is fetched by two threads": (
        "slots",
        "        with self._lock:\n            if self._slot is not None:",
        "        if True:\n            if self._slot is not None:",
        TICKET,
    ),
    "close does not wait for submit": (
        "session",
        "        with self._lock:\n            self._closed = True",
        "        if True:\n            self._closed = True",
        by(threads.test_close_waits_for_a_submit_that_is_under_way),
    ),
    "others wait while an engine is built": (
        "session",
        "            with self._building:\n                plan = self._plan_for(batch.shape)\n",
        "            with self._lock:\n                plan = self._plan_for(batch.shape)\n",
        BUILDING,
    ),
    "a session that was closed during a build makes slots": (
        "session",
        "                if self._closed:\n",
        "                if self._closed and plan is None:\n",
        CLOSED,
    ),
    "a shape that another thread made meanwhile is made again": (
        "session",
        "        if key in self._shapes:\n            self",
        "        if key in self._shapes and plan is None:\n            self",
        by(threads.test_two_threads_ask_for_the_same_new_shape),
    ),
    "garbage is collected in a capture": ("cuda", "        gc.disable()\n", "        pass\n", GARBAGE),
    "the collector stays off": (
        "cuda",
        "            if collecting:\n                gc.enable()\n",
        "            pass\n",
        GARBAGE,
    ),
    "the collector is switched on": (
        "cuda",
        "            if collecting:\n",
        "            if True:\n",
        by(threads.test_a_collector_that_is_off_stays_off),
    ),
    "the first capture that ends switches the collector on": (
        "cuda",
        "    with _CAPTURING:\n",
        "    if True:\n",
        CAPTURES,
    ),
    "a forked child uses the GPU": (
        "cuda",
        "        self.refuse_if_forked()\n        error, *found",
        "        error, *found",
        FORKED,
    ),
    "a forked child closes its parent's session": (
        "session",
        "        if self._cuda.is_forked:\n",
        "        if False:\n",
        FORKED,
    ),
    "a forked child drops its parent's engines": (
        "session",
        "            keep_for_ever((self._shapes, self._engines))  # or dropping them would release the parent's\n",
        "",
        FORKED,
    ),
    "a forked child waits for a session of its parent": (
        "session",
        "        self._cuda.refuse_if_forked()\n",
        "",
        FORK_WAITS,
    ),
    "a forked child waits for a ticket of its parent": (
        "slots",
        "            self._cuda.refuse_if_forked()  # another",
        "            pass  # another",
        FORK_WAITS,
    ),
}
