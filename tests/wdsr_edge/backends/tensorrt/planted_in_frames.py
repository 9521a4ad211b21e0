"""Bugs in how frames come and go: memory, copies, slots, times."""

from __future__ import annotations

from tests.wdsr_edge.backends.tensorrt import test_session as session
from tests.wdsr_edge.backends.tensorrt.schedules import Bugs, by, schedules

TIMES = by(session.test_the_parts_of_a_frame_are_timed, False, (2, 5, 3))
ALONE = by(session.test_the_engine_alone_is_timed_between_frames)
FLOATS = by(session.test_floats_in_planes)

BUGS: Bugs = {
    "a result is read before its download": (
        "slots",
        'self._cuda.call("cudaEventSynchronize", self._downloaded)',
        "pass",
        schedules,
    ),
    "a result is read when it is computed": (
        "slots",
        '"cudaEventSynchronize", self._downloaded)',
        '"cudaEventSynchronize", self._computed)',
        schedules,
    ),
    "a slot is taken before its frame was fetched": (
        "slots",
        "self.settle()\n        self._host_lr",
        "pass\n        self._host_lr",
        schedules,
    ),
    "a result is the pinned memory itself": (
        "slots",
        ".reshape(self._shape).copy()",
        ".reshape(self._shape)",
        schedules,
    ),
    "the upload comes after the computing": (
        "slots",
        '        self._copy(self._lr, self._host_lr, "cudaMemcpyHostToDevice")\n'
        "        self._record(self._uploaded)\n"
        "        self._start()\n",
        "        self._record(self._uploaded)\n"
        "        self._start()\n"
        '        self._copy(self._lr, self._host_lr, "cudaMemcpyHostToDevice")\n',
        schedules,
    ),
    "a batch is taken as it lies in memory": (
        "slots",
        "np.ascontiguousarray(batch).reshape(-1).view(np.uint8)",
        "np.ravel(batch, 'K').view(np.uint8)",
        schedules,
    ),
    "half of the output is downloaded": ("slots", "addresses, size, way", "addresses, size // 2, way", schedules),
    "a copy in the wrong direction": (
        "slots",
        'self._copy(self._host_sr, self._sr, "cudaMemcpyDeviceToHost")',
        'self._copy(self._host_sr, self._sr, "cudaMemcpyHostToDevice")',
        schedules,
    ),
    "a copy that CUDA is to find the direction of, by number": (
        "slots",
        "way = getattr(self._cuda.runtime.cudaMemcpyKind, kind)",
        "way = {'cudaMemcpyHostToDevice': 1}.get(kind, 2)",
        schedules,
    ),
    "shared memory is copied": ("slots", "        if self._cuda.integrated:\n            return\n", "", schedules),
    "the engine reads shared memory at the host's address": (
        "slots",
        "self._lr = seen_lr if cuda.integrated",
        "self._lr = self._host_lr.ctypes.data if cuda.integrated",
        schedules,
    ),
    "the engine reads pinned memory where it has its own": (
        "slots",
        "self._lr = seen_lr if cuda.integrated else self._resources.device(batch.nbytes)",
        "self._lr = seen_lr",
        schedules,
    ),
    "input and output share memory": ("slots", "bind(self._lr, self._sr)", "bind(self._lr, self._lr)", schedules),
    "input and output are swapped": (
        "contexts",
        "((self.lr, lr), (self.sr, sr))",
        "((self.lr, sr), (self.sr, lr))",
        schedules,
    ),
    "too little memory for the output": (
        "slots",
        "size = int(np.prod(self._shape)) * batch.itemsize",
        "size = batch.nbytes",
        schedules,
    ),
    "memory for floats as if they were bytes": (
        "slots",
        "size = int(np.prod(self._shape)) * batch.itemsize",
        "size = int(np.prod(self._shape))",
        FLOATS,
    ),
    "floats are read as bytes": ("slots", "self._host_sr.view(self._dtype)", "self._host_sr", FLOATS),
    "a batch of another size takes the slots of the first": (
        "session",
        "key = (*batch.shape, batch.dtype.num)",
        "key = batch.shape[1:]",
        FLOATS,
    ),
    "a batch of another type takes the slots of the first": (
        "session",
        "key = (*batch.shape, batch.dtype.num)",
        "key = batch.shape",
        by(session.test_an_engine_for_another_type_is_refused),
    ),
    "all frames go through one slot": (
        "slots",
        "self._next = (self._next + 1) % len(self._slots)",
        "self._next = 0",
        by(session.test_a_frame_is_worked_on_while_the_next_is_taken),
    ),
    "upload and computing are timed as one": (
        "slots",
        "(self._began, self._uploaded, self._computed))]",
        "(self._began, self._computed, self._computed))]",
        TIMES,
    ),
    "the download is timed from the start": (
        "slots",
        "self._elapsed(self._computed, self._downloaded)",
        "self._elapsed(self._began, self._downloaded)",
        TIMES,
    ),
    "the engine alone is timed with a copy": (
        "slots",
        "in range(count):\n            self._start()",
        "in range(count):\n            self._copy(self._lr, self._host_lr, 'cudaMemcpyHostToDevice'); self._start()",
        ALONE,
    ),
    "the engine alone runs once more than is counted": (
        "slots",
        "in range(count):\n            self._start",
        "in range(count + 1):\n            self._start",
        ALONE,
    ),
    "the engine alone is timed over a frame in flight": (
        "session",
        "                each.settle()\n",
        "                pass\n",
        ALONE,
    ),
}
