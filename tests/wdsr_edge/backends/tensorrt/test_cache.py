"""The cache of engines: private, built once, checked, limited, and plain about why it builds again."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from wdsr_edge import InputError
from wdsr_edge.backends.tensorrt.build import Built
from wdsr_edge.backends.tensorrt.cache import Builder, Cached, EngineCache
from wdsr_edge.backends.tensorrt.config import EngineConfig, Profile

CONFIG = EngineConfig((Profile.static(270, 480),))
BUILDER = Builder("tensorrt", "10.3.0", "Orin", 87)


class Workshop:
    """Builds engines of a size, and counts."""

    def __init__(self, size: int = 100) -> None:
        self.size = size
        self.saw: list[bytes] = []

    def __call__(self, timing_cache: bytes) -> Built:
        self.saw.append(timing_cache)
        return Built(bytes([len(self.saw)]) * self.size, "layers", b"measured", 0.5)


def get(
    cache: EngineCache, build: Callable[[bytes], Built], onnx: bytes = b"onnx", builder: Builder = BUILDER
) -> Cached:
    return cache.get(onnx, "fp16", CONFIG, builder, build)


def test_the_second_time_it_lies_there(tmp_path: Path) -> None:
    build = Workshop()
    first = get(EngineCache(tmp_path / "a"), build)
    second = get(EngineCache(tmp_path / "a"), build)
    assert (first.engine, first.layers, first.built) == (b"\1" * 100, "layers", "it was not built here before")
    assert second == replace(first, built="")
    assert build.saw == [b""]


def test_whatever_was_asked_for_counts(tmp_path: Path) -> None:
    cache, build = EngineCache(tmp_path), Workshop()
    get(cache, build)
    get(cache, build, onnx=b"other")
    cache.get(b"onnx", "int8", CONFIG, BUILDER, build)
    cache.get(b"onnx", "fp16", replace(CONFIG, aux_streams=1), BUILDER, build)
    cache.get(b"onnx", "fp16", EngineConfig((Profile.static(480, 270),)), BUILDER, build)
    assert len(build.saw) == len(cache.entries()) == 5


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (replace(BUILDER, version="10.13.0"), "the one in the cache is of another build: version was 10.3.0"),
        (replace(BUILDER, gpu="Thor", sm=110), "of another build: gpu was Orin, sm was 87"),
    ],
)
def test_another_library_or_gpu_builds_again_and_says_so(tmp_path: Path, other: Builder, reason: str) -> None:
    cache, build = EngineCache(tmp_path), Workshop()
    get(cache, build)
    assert reason in get(cache, build, builder=other).built
    assert build.saw == [b"", b""], "what was measured for another GPU or by another library says nothing"
    assert get(cache, build).built == ""


def test_what_was_measured_helps_the_next_build(tmp_path: Path) -> None:
    cache, build = EngineCache(tmp_path), Workshop()
    get(cache, build)
    get(cache, build, onnx=b"other")
    assert build.saw == [b"", b"measured"]


@pytest.mark.parametrize(
    ("part", "data"),
    [
        ("engine", b"\1" * 99 + b"\2"),
        ("engine", b""),
        ("layers", b"others"),
        ("entry.json", b"{"),
        ("entry.json", b"[]"),
        ("entry.json", b"[" * 100_000),
        ("entry.json", None),
        ("engine", None),
    ],
)
def test_a_damaged_entry_is_built_again(tmp_path: Path, part: str, data: bytes | None) -> None:
    cache, build = EngineCache(tmp_path), Workshop()
    get(cache, build)
    (entry,) = cache.entries()
    (entry / part).unlink() if data is None else (entry / part).write_bytes(data)
    assert get(cache, build).built == "what lay in the cache is damaged"
    assert get(cache, build).built == ""
    assert len(build.saw) == 2


def test_an_entry_put_in_place_of_another_is_not_taken(tmp_path: Path) -> None:
    cache, build = EngineCache(tmp_path), Workshop()
    get(cache, build)
    (ours,) = cache.entries()
    get(cache, build, onnx=b"other")
    theirs = next(path for path in cache.entries() if path != ours)
    (theirs / "entry.json").write_bytes((ours / "entry.json").read_bytes())
    (theirs / "engine").write_bytes((ours / "engine").read_bytes())
    assert get(cache, build, onnx=b"other").built == "what lay in the cache is damaged"


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    cache, build = EngineCache(tmp_path, limit_bytes=24_000), Workshop(6000)
    for name in (b"a", b"b", b"c"):
        get(cache, build, name)
        time.sleep(0.02)
    get(cache, build, b"a")
    time.sleep(0.02)
    get(cache, build, b"d")
    assert [get(cache, build, name).built for name in (b"a", b"c", b"d")] == ["", "", ""]
    assert get(cache, build, b"b").built == "it was not built here before"


def test_one_that_is_larger_than_the_limit_is_kept_alone(tmp_path: Path) -> None:
    cache, build = EngineCache(tmp_path, limit_bytes=10), Workshop()
    get(cache, build)
    assert get(cache, build).built == ""
    get(cache, build, b"other")
    assert len(cache.entries()) == 1


def test_what_is_not_of_the_cache_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    for name in ("entry.json", "thesis.txt"):
        (tmp_path / "project" / name).write_bytes(bytes(9000))
    cache = EngineCache(tmp_path, limit_bytes=1000)
    for name in (b"a", b"b"):
        get(cache, Workshop(800), name)
    assert len(cache.entries()) == 1
    assert len([*(tmp_path / "project").iterdir()]) == 2


def test_what_is_damaged_or_of_an_old_version_or_left_behind_goes_as_well(tmp_path: Path) -> None:
    cache, build = EngineCache(tmp_path, limit_bytes=3000), Workshop(800)
    damaged = get(cache, build, b"a").path
    (damaged / "entry.json").unlink()
    old = cache.kernels(replace(BUILDER, version="9"))
    old.write_bytes(bytes(900))
    left, under_way = (tmp_path / f".{damaged.name}.{name}" for name in ("left", "under_way"))
    for path in (left, under_way):
        path.mkdir()
    for path in (damaged, old, left):
        os.utime(path, (1, 1))
    get(cache, build, b"b")
    assert not damaged.exists()
    assert not left.exists()
    assert under_way.exists()
    assert old.exists(), "the rest is within the limit"
    get(cache, build, b"c")
    assert not old.exists()
    assert len(cache.entries()) == 1


def test_only_its_owner_may_look_or_write(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    EngineCache(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    EngineCache(tmp_path / "new" / "engines")
    assert stat.S_IMODE((tmp_path / "new" / "engines").stat().st_mode) == 0o700


def test_what_others_may_have_put_there_is_not_trusted(tmp_path: Path) -> None:
    get(EngineCache(tmp_path), Workshop())
    tmp_path.chmod(0o722)
    with pytest.raises(InputError, match=r"others can write to .*: remove what is in it"):
        EngineCache(tmp_path)
    tmp_path.chmod(0o755)
    assert get(EngineCache(tmp_path), Workshop()).built == "", "they could only read it"


def test_an_engine_that_cannot_be_kept_is_given_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise InputError("cannot write: No space left on device")

    cache = EngineCache(tmp_path)
    monkeypatch.setattr(cache, "_write", full)
    assert get(cache, Workshop()).engine == b"\1" * 100
    assert "the engine is not kept: cannot write: No space left" in caplog.text


def test_entries_that_vanish_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = EngineCache(tmp_path)
    get(cache, Workshop())
    monkeypatch.setattr(cache, "entries", lambda: [tmp_path / "gone"])
    assert get(cache, Workshop(), b"other").built


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(InputError, match="belongs to another user"):
        EngineCache(tmp_path)


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot keep engines in"):
        EngineCache(tmp_path / "file" / "engines")


def test_the_default_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EngineCache().folder == tmp_path / "wdsr-edge" / "engines"


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(timing_cache: bytes) -> Built:
        raise InputError("no")

    cache = EngineCache(tmp_path)
    with pytest.raises(InputError, match="no"):
        get(cache, fail)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".lock-")]
    assert get(cache, Workshop()).built


def test_threads_that_ask_at_once_build_once(tmp_path: Path) -> None:
    build = Workshop()

    def slowly(timing_cache: bytes) -> Built:
        time.sleep(0.2)
        return build(timing_cache)

    found: list[Cached] = []
    threads = [threading.Thread(target=lambda: found.append(get(EngineCache(tmp_path), slowly))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(build.saw) == 1
    assert {one.engine for one in found} == {b"\1" * 100}


CHILD = """
import os, signal, sys, time
from tests.wdsr_edge.backends.tensorrt.test_cache import EngineCache, Workshop, get

def build(timing_cache):
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))
    if sys.argv[3] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return Workshop()(timing_cache)

print(repr(get(EngineCache(sys.argv[1]), build).built))
"""


def child(folder: Path, seconds: float, then: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", CHILD, str(folder), str(seconds), then]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_processes_that_ask_at_once_build_once(tmp_path: Path) -> None:
    with child(tmp_path, 1.5, "live") as first, child(tmp_path, 1.5, "live") as second:
        said = first.communicate()[0], second.communicate()[0]
    assert sorted(said) == ["''\n", "building\n'it was not built here before'\n"]


def test_a_process_that_is_killed_holds_up_nobody(tmp_path: Path) -> None:
    with child(tmp_path, 0, "die") as dying:
        assert dying.communicate()[0] == "building\n"
    cache, build = EngineCache(tmp_path), Workshop()
    assert get(cache, build).built == "it was not built here before"
    assert len(build.saw) == 1


def test_what_engines_were_compiled_with_is_known(tmp_path: Path) -> None:
    """The latest used last; only of the graph, the precision and the builder that are asked for, and if it is whole."""
    cache, build = EngineCache(tmp_path), Workshop()
    other = replace(CONFIG, optimization_level=5)
    for config in (CONFIG, other, CONFIG):
        time.sleep(0.01)
        cache.get(b"onnx", "fp16", config, BUILDER, build)
    assert cache.configs(b"onnx", "fp16", BUILDER) == [other, CONFIG]
    assert cache.configs(b"onnx", "int8", BUILDER) == []
    assert cache.configs(b"other", "fp16", BUILDER) == []
    assert cache.configs(b"onnx", "fp16", replace(BUILDER, version="11.4.0")) == []
    for text in ("{", "[]", '{"request": 1}', (tmp_path / cache.entries()[0] / "entry.json").read_text()[:-40]):
        (cache.entries()[-1] / "entry.json").write_text(text)
        assert len(cache.configs(b"onnx", "fp16", BUILDER)) <= 1


def test_one_that_was_built_with_less_is_built_again_on_request(tmp_path: Path) -> None:
    def with_less(timing_cache: bytes) -> Built:
        return replace(build(timing_cache), lighter="the build was killed")

    cache, build = EngineCache(tmp_path), Workshop()
    get(cache, with_less)
    assert get(cache, build).lighter == "the build was killed"
    again = cache.get(b"onnx", "fp16", CONFIG, BUILDER, build, in_full=True)
    assert (again.built, again.lighter) == ("it was built with less, as at first the build was killed", "")
    assert cache.get(b"onnx", "fp16", CONFIG, BUILDER, build, in_full=True).built == ""


def test_one_that_is_forgotten_is_built_again(tmp_path: Path) -> None:
    cache, build = EngineCache(tmp_path), Workshop()
    cache.forget(get(cache, build))
    assert get(cache, build).built == "it was not built here before"


def test_other_files_count_as_well(tmp_path: Path) -> None:
    cache, build = EngineCache(tmp_path, limit_bytes=2000), Workshop(500)
    get(cache, build)
    assert len(cache.entries()) == 1
    cache.kernels(BUILDER).write_bytes(bytes(1200))
    time.sleep(0.01)
    get(cache, build, onnx=b"other")
    assert len(cache.entries()) == 1


def test_without_locks_it_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    build = Workshop()
    get(EngineCache(tmp_path), build)
    assert get(EngineCache(tmp_path), build).built == ""
    assert "cannot be locked ([Errno 37] No locks available): an engine may be built twice" in caplog.text
