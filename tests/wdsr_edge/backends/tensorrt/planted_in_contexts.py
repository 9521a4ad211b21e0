"""Bugs in execution contexts, CUDA graphs and compiled kernels."""

from __future__ import annotations

from pathlib import Path

from tests.wdsr_edge.backends.tensorrt import test_rtx as rtx
from tests.wdsr_edge.backends.tensorrt import test_session as session
from tests.wdsr_edge.backends.tensorrt.schedules import Bugs, Code, by, schedules


def kernels(onnx: Path, code: Code, folder: Path) -> None:
    rtx.test_kernels_are_kept_for_the_next_session(onnx, code, folder / "kept" / "kernels.bin")
    rtx.test_kernels_are_kept_after_the_first_frames_of_a_shape(onnx, code, folder / "first" / "kernels.bin")
    rtx.test_kernels_that_are_refused_are_compiled_and_written_anew(onnx, code, folder / "stale" / "kernels.bin")
    rtx.test_an_interrupted_writing_of_kernels_leaves_nothing(onnx, code, folder / "left" / "kernels.bin")


PROFILES = by(session.test_the_profile_that_takes_the_shape_is_chosen)
STRATEGY = by(rtx.test_it_captures_by_itself_and_waits_for_its_kernels, True)

BUGS: Bugs = {
    "two slots share an execution context": (
        "contexts",
        "context = engine.create_execution_context(self._strategy(engine))",
        "known = vars(self).get(str(shape))\n"
        "        context = known or engine.create_execution_context(self._strategy(engine))\n"
        "        vars(self)[str(shape)] = context",
        schedules,
    ),
    "two slots share a context's memory": (
        "contexts",
        "context.set_device_memory(resources.device(size), size)",
        "context.set_device_memory(vars(self).setdefault(str(shape), resources.device(size)), size)",
        schedules,
    ),
    "a context's memory is asked for before its shape": (
        "contexts",
        "        if not context.set_input_shape(lr, shape):\n"
        "            raise BackendError(f\"the engine refused {shape}: {'; '.join(faults)}\")\n"
        "        size = int(context.update_device_memory_size_for_shapes())\n",
        "        size = int(context.update_device_memory_size_for_shapes())\n"
        "        if not context.set_input_shape(lr, shape):\n"
        "            raise BackendError(f\"the engine refused {shape}: {'; '.join(faults)}\")\n",
        schedules,
    ),
    "a context gets less memory than it needs": (
        "contexts",
        "resources.device(size), size)",
        "resources.device(size // 2), size)",
        schedules,
    ),
    "a context's memory is not aligned": (
        "contexts",
        "resources.device(size), size)",
        "resources.device(size + 64) + 64, size)",
        schedules,
    ),
    "a context gets no memory": ("contexts", "        if size:\n", "        if False:\n", schedules),
    "a context takes memory for the largest shape": (
        "contexts",
        "AllocationStrategy.USER_MANAGED",
        "AllocationStrategy.STATIC",
        schedules,
    ),
    "the profile is set in the default stream": (
        "contexts",
        "set_optimization_profile_async(profile, int(stream))",
        "set_optimization_profile_async(profile, 0)",
        schedules,
    ),
    "the profile is set in a stream that nothing waits for": (
        "contexts",
        "        if not context.set_optimization_profile_async(profile, int(stream)):\n"
        "            raise BackendError(f\"the engine refused its profile {profile}: {'; '.join(faults)}\")\n"
        '        self._cuda.call("cudaStreamSynchronize", stream)\n',
        "        context.set_optimization_profile_async(profile, int(resources.stream()))\n",
        schedules,
    ),
    "the first profile is taken for all": ("contexts", "low <= side <= high for", "True for", PROFILES),
    "a profile is taken for all that is no smaller": ("contexts", "low <= side <= high", "low <= side", PROFILES),
    "TensorRT gets a stream's handle": (
        "contexts",
        "self.context.execute_async_v3(int(stream))",
        "self.context.execute_async_v3(stream)",
        schedules,
    ),
    "a capture before the first run": (
        "slots",
        '        self._enqueue()\n        self._cuda.call("cudaStreamSynchronize", self._stream)\n        if not graph',
        "        if not graph",
        schedules,
    ),
    "no wait between the first run and the capture": (
        "slots",
        '        self._cuda.call("cudaStreamSynchronize", self._stream)\n        if not graph',
        "        if not graph",
        schedules,
    ),
    "a wait within the capture": (
        "slots",
        "self._resources.graph(self._stream, self._enqueue)",
        "self._resources.graph(\n"
        "                self._stream,\n"
        '                lambda: [self._enqueue(), self._cuda.call("cudaStreamSynchronize", self._stream)],\n'
        "            )",
        schedules,
    ),
    "memory is set aside within the capture": (
        "slots",
        "self._resources.graph(self._stream, self._enqueue)",
        "self._resources.graph(self._stream, lambda: [self._enqueue(), self._resources.device(9)])",
        schedules,
    ),
    "a capture that fails is left open": (
        "cuda",
        'self._release("cudaGraphDestroy", self.cuda.call("cudaStreamEndCapture", stream))',
        "pass",
        by(session.test_a_run_that_fails_in_a_capture_ends_it),
    ),
    "a capture that other threads can spoil": (
        "cuda",
        "cudaStreamCaptureModeThreadLocal",
        "cudaStreamCaptureModeGlobal",
        schedules,
    ),
    "a captured graph is not destroyed": ("cuda", 'self._release("cudaGraphDestroy", captured[0])', "pass", schedules),
    "TensorRT for RTX is captured as well": (
        "contexts",
        'return self._graphs and self._library != "tensorrt-rtx"',
        "return self._graphs",
        schedules,
    ),
    "TensorRT for RTX starts each kernel by itself": (
        "contexts",
        "WHOLE_GRAPH_CAPTURE if self._graphs",
        "DISABLED if self._graphs",
        STRATEGY,
    ),
    "TensorRT for RTX runs slower kernels at first": (
        "contexts",
        "SpecializationStrategy.EAGER",
        "SpecializationStrategy.LAZY",
        STRATEGY,
    ),
    "kernels are written every time": ("contexts", 'if found not in (b"", self._kept):', "if True:", kernels),
    "kernels are never read": ("contexts", "                self._read_kernels(self._kernels_file)\n", "", kernels),
    "each context has kernels of its own": (
        "contexts",
        "            if self._kernels is None:\n",
        "            if True:\n",
        kernels,
    ),
    "kernels are kept by nobody": ("contexts", "config.set_runtime_cache(self._kernels) is False", "False", kernels),
    "kernels are written once the engine is proven and its slots are left": (
        "session",
        "                self._engines.write_kernels()\n"
        "            except BaseException:\n                slots.close()\n                raise\n",
        "            except BaseException:\n                slots.close()\n                raise\n"
        "            self._engines.write_kernels()\n",
        kernels,
    ),
}
