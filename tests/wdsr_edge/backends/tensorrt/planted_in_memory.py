"""Bugs in what is kept and freed, in which order, and after what failures."""

from __future__ import annotations

from pathlib import Path

from tests.wdsr_edge.backends.tensorrt import test_memory as memory
from tests.wdsr_edge.backends.tensorrt import test_session as session
from tests.wdsr_edge.backends.tensorrt.planted_in_contexts import kernels
from tests.wdsr_edge.backends.tensorrt.schedules import Bugs, Code, by, schedules


def first_that_fails(onnx: Path, code: Code, folder: Path) -> None:
    for function in memory.CALLS:
        for nth in (1, 2, 3, 5, 9):
            memory.test_whichever_call_fails_it_is_one_line_and_nothing_leaks(onnx, code, function, nth)


INTERRUPTED = by(session.test_an_interrupted_close_can_be_taken_up_again)
FAILURE = by(session.test_after_a_failure_it_says_so)
LOG = by(session.test_one_log_serves_all_sessions)
ONCE = by(memory.test_memory_is_set_aside_once_for_a_shape)
ORDER = by(memory.test_the_shape_that_was_longest_unused_goes_first)
LAST = by(memory.test_an_engine_goes_with_the_last_shape_that_uses_it)
COPIES = by(memory.test_no_copy_of_a_plan_is_kept)
FULL = by(memory.test_full_memory_drops_what_is_idle, False)
PROOF = by(memory.test_an_engine_is_proven_before_its_first_frame)
NO_PROOF = by(memory.test_an_interrupted_proof_leaves_nothing)

BUGS: Bugs = {
    "memory is not freed": (
        "cuda",
        'self._own(self.cuda.call("cudaMalloc", size), "cudaFree")',
        'self.cuda.call("cudaMalloc", size)',
        schedules,
    ),
    "pinned memory is freed as the GPU's": ("cuda", '"cudaFreeHost"', '"cudaFree"', schedules),
    "pinned memory is not mapped": ("cuda", "self.cuda.runtime.cudaHostAllocMapped", "0", schedules),
    "the address of pinned memory is the host's": (
        "cuda",
        'seen = int(self.cuda.call("cudaHostGetDevicePointer", pointer, 0))',
        "seen = int(pointer)",
        schedules,
    ),
    "events are not destroyed": (
        "cuda",
        'self._own(self.cuda.call("cudaEventCreateWithFlags", flags), "cudaEventDestroy")',
        'self.cuda.call("cudaEventCreateWithFlags", flags)',
        schedules,
    ),
    "a stream that waits for the default one": ("cuda", "self.cuda.runtime.cudaStreamNonBlocking", "0", schedules),
    "errors are not looked at": ("cuda", "if int(error) != 0:", "if False:", FAILURE),
    "a lost GPU is closed with an error": (
        "cuda",
        "        with contextlib.suppress(BackendError):  # the GPU may be lost, and then nothing is left to release\n"
        "            self.cuda.call(function, thing)\n",
        "        self.cuda.call(function, thing)\n",
        by(memory.test_when_the_gpu_is_lost_the_program_must_be_restarted, "work", 30, memory.Error(700)),
    ),
    "an error that loses the GPU is taken for any other": (
        "cuda",
        '("cudaErrorInvalidPc", "cudaErrorLaunchFailure", ',
        '("cudaErrorInvalidPc", ',
        lambda onnx, code, folder: memory.test_which_errors_lose_the_gpu(code),
    ),
    "after a failure it goes on": ("session", "                        self._fault = str(error)\n", "", FAILURE),
    "a slot is closed under work": (
        "slots",
        "            self.settle()\n"
        "        except MemoryError:  # for a copy of the result: all the more reason to free some\n"
        "            assert ticket is not None\n"
        '            ticket.give_up("the memory is full: the frame is lost")\n'
        '        try:\n            self._cuda.call("cudaStreamSynchronize", self._stream)',
        "            pass\n        finally:\n            pass\n        try:\n            pass",
        schedules,
    ),
    "a ticket loses its result when its shape is dropped": (
        "slots",
        "            self.settle()\n        except MemoryError",
        "            pass\n        except MemoryError",
        schedules,
    ),
    "a slot that could not be made leaves its memory": (
        "slots",
        "            self._context = None\n            self._resources.close()\n            raise\n",
        "            raise\n",
        first_that_fails,
    ),
    "slots of a shape that could not be made are left": (
        "slots",
        "        except BaseException:\n            self.close()\n            raise\n",
        "        finally:\n            pass\n",
        first_that_fails,
    ),
    "engines are freed before contexts": (
        "session",
        "            self._drop(*self._shapes)\n            self._engines.close()\n",
        "            self._engines.close()\n            self._drop(*self._shapes)\n",
        schedules,
    ),
    "kernels are freed before contexts": (
        "session",
        "            self._drop(*self._shapes)\n            self._engines.close()\n",
        "            self._engines._kernels = None\n"
        "            self._drop(*self._shapes)\n            self._engines.close()\n",
        kernels,
    ),
    "each session has a log of its own": (
        "contexts",
        "self._log = log_of(trt)",
        "self._log = __import__('wdsr_edge.backends.tensorrt.library', fromlist=['x']).make_log(trt)",
        LOG,
    ),
    "five shapes are kept": (
        "session",
        "while len(self._shapes) >= SHAPES:",
        "while len(self._shapes) > SHAPES:",
        ONCE,
    ),
    "the shape that was made first goes first": (
        "session",
        "self._shapes[key] = self._shapes.pop(key)  # the latest last",
        "pass",
        ORDER,
    ),
    "the latest shape goes first": (
        "session",
        "self._drop(next(iter(self._shapes)))",
        "self._drop([*self._shapes][-1])",
        ORDER,
    ),
    "engines stay with the session": (
        "session",
        "        self._engines.keep(engine for engine, _ in self._shapes.values())\n",
        "",
        LAST,
    ),
    "an engine goes with the first shape that goes": ("contexts", "if key in kept}", "if False}", LAST),
    "an engine is loaded for each shape": (
        "contexts",
        "        if key not in self._loaded:\n",
        "        if True:\n",
        LAST,
    ),
    "engines are found by their plans": ("contexts", "key = hashlib.sha256(plan).hexdigest()", "key = plan", COPIES),
    "full memory is final": (
        "session",
        "                if not self._shapes:\n                    raise\n",
        "                raise\n",
        FULL,
    ),
    "full memory is tried again while the error holds an engine": (
        "session",
        "                if not self._shapes:\n                    raise\n",
        "                if not self._shapes:\n                    raise\n"
        "                self._drop(*self._shapes)\n                self._shapes[key] = self._make(batch, plan)\n",
        FULL,
    ),
    "an engine that finds no memory is given up": (
        "contexts",
        'raise OutOfMemory(f"the engine cannot',
        'raise BackendError(f"the engine cannot',
        FULL,
    ),
    "a context that finds no memory is given up": (
        "contexts",
        'raise OutOfMemory(f"no execution',
        'raise BackendError(f"no execution',
        FULL,
    ),
    "only the oldest shape goes when memory is full": (
        "session",
        "                self._drop(*self._shapes)\n                self._shapes[key] = self._make(batch, plan)\n",
        "                self._drop(next(iter(self._shapes)))\n"
        "                self._shapes[key] = self._make(batch, plan)\n",
        by(memory.test_full_memory_drops_all_that_is_idle),
    ),
    "an engine is not proven": ("session", "plan.prove(lambda one: slots.submit(one).result())", "pass", PROOF),
    "an engine that is refused stays": (
        "session",
        "            except BaseException:\n                slots.close()\n                raise\n",
        "            finally:\n                pass\n",
        PROOF,
    ),
    "an engine that is refused stays loaded": (
        "session",
        "        except BaseException:\n            self._drop()\n            raise\n",
        "        finally:\n            pass\n",
        PROOF,
    ),
    "a proof that is interrupted leaves its slots": (
        "session",
        "            except BaseException:\n                slots.close()\n",
        "            except BackendError:\n                slots.close()\n",
        NO_PROOF,
    ),
    "an interrupted close forgets a shape": (
        "session",
        "            self._shapes[key][1].close()\n            del self._shapes[key]",
        "            self._shapes.pop(key)[1].close()",
        INTERRUPTED,
    ),
    "an interrupted close forgets a slot": (
        "slots",
        "            self._slots[-1].close()\n            self._slots.pop()",
        "            self._slots.pop().close()",
        INTERRUPTED,
    ),
    "an interrupted release is done again": (
        "slots",
        "        if self._context is None:\n            return  # an interrupted one frees the rest all the same\n",
        "",
        by(session.test_an_interrupted_release_is_not_done_twice),
    ),
}
