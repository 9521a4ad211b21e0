"""Windows as far as Python code can tell, for a process of its own: ``python -m tests.simulated_windows COMMAND...``

``os``, ``signal`` and the standard library lack what they lack there; a rename never writes over anything, and no file
that is open or mapped can be replaced, renamed or removed; names are the same in upper and lower case; ``nul.png`` is a
device and ``a?b`` is no name; caches lie in %LOCALAPPDATA%; a text file that is opened without an encoding is an error.

What stays as it is here: paths are written with ``/`` and have no drive, and libraries in C see the real system.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import importlib
import io
import os
import platform
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import typer
from PIL import Image

MISSING = {
    "os": (
        *("fork", "forkpty", "getuid", "geteuid", "getgid", "getegid", "getgroups", "setuid", "register_at_fork"),
        *("sched_getaffinity", "sched_setaffinity", "sched_yield", "sysconf", "confstr", "uname", "mkfifo", "mknod"),
        *("chown", "lchown", "fchown", "fchmod", "chroot", "killpg", "getpgid", "setsid", "getpriority", "nice"),
        *("statvfs", "fstatvfs", "posix_fallocate", "pread", "pwrite", "preadv", "sendfile", "getloadavg", "openpty"),
        *("wait", "wait3", "wait4", "WNOHANG", "pipe2", "sync", "memfd_create", "eventfd", "ctermid", "posix_spawn"),
        *("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "O_SYNC", "O_NOCTTY", "O_PATH", "O_TMPFILE"),
    ),
    "signal": (
        *("SIGKILL", "SIGALRM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGCHLD", "SIGSTOP", "SIGCONT"),
        *("alarm", "setitimer", "pthread_sigmask", "pthread_kill", "sigwait", "pause"),
    ),
    "time": ("clock_gettime", "clock_settime", "pthread_getcpuclockid", "tzset"),
}
NO_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline", "curses")
PRELOADED = (
    *("asyncio", "concurrent.futures", "ctypes.util", "importlib.metadata", "logging", "multiprocessing.pool"),
    *("platform", "random", "subprocess", "tempfile", "urllib.request"),
    *("filelock", "numpy", "onnxruntime", "openvino", "rich.console", "rich.progress", "typer.rich_utils"),
    *("PIL.features", "PIL.Image", "PIL.ImageCms", "PIL.BmpImagePlugin", "PIL.JpegImagePlugin"),
    *("PIL.PngImagePlugin", "PIL.TiffImagePlugin", "PIL.WebPImagePlugin"),
)
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}


def install() -> None:
    """From now on this process is on Windows, but for what was imported before."""
    _preload()
    # Of our own modules none may have been imported, as some ask when they are.
    assert not [name for name in sys.modules if name.startswith(("wdsr_edge", "platformdirs"))]
    for module, names in MISSING.items():
        for name in names:
            if hasattr(sys.modules[module], name):
                delattr(sys.modules[module], name)
    for name in NO_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    sys.platform = "win32"
    ctypes.windll = SimpleNamespace(kernel32=SimpleNamespace(GlobalMemoryStatusEx=_memory))  # type: ignore[attr-defined]
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    warnings.filterwarnings("error", category=EncodingWarning, module="wdsr_")
    _patch_files()
    import platformdirs.windows as folders

    folders._RESOLVE_WIN_FOLDER = folders.get_win_folder_from_env_vars  # the registry and the DLL are not here


def _preload() -> None:
    """Other people's packages, which have real versions for Windows."""
    for name in PRELOADED:
        importlib.import_module(name)
    Image.init()
    example = typer.Typer(add_completion=False)

    @example.command()
    def run(
        names: list[Path],
        size: float = 1.0,
        number: int | None = None,
        more: list[str] | None = None,
        yes: bool = False,
    ) -> None:
        """It imports the rest when it is used."""

    with contextlib.redirect_stdout(io.StringIO()):
        example(["a", "--number", "3", "--more", "b", "--yes"], standalone_mode=False)
        example(["--help"], standalone_mode=False)
    platform.uname()
    platform.processor()


def _memory(pointer: Any) -> int:
    pointer._obj.total = 16 << 30
    return 1


def _patch_files() -> None:
    names: dict[str, int] = {
        **dict.fromkeys(("stat", "lstat", "listdir", "scandir", "mkdir", "open", "access", "chmod", "utime"), 1),
        **dict.fromkeys(("unlink", "remove", "rmdir", "readlink", "truncate"), 1),
        **dict.fromkeys(("rename", "replace", "link"), 2),
    }
    real = {name: getattr(os, name) for name in names}

    def folded(path: Any, making: bool = False) -> Any:
        """The path under which a file lies whose name may be in another case."""
        if isinstance(path, int) or path is None:
            return path
        text = os.fsdecode(path)
        for part in text.split("/"):
            if any(letter in '<>:"|?*' or letter < " " for letter in part):
                error: Any = OSError(22, "The filename, directory name, or volume label syntax is incorrect", text)
                error.winerror = 123  # which pathlib knows
                raise error
        if text.rpartition("/")[2].partition(".")[0].rstrip(" ").lower() in DEVICES:
            return "/dev/null"
        if text.startswith(("/proc/", "/sys/", "/dev/")):
            raise FileNotFoundError(2, "The system cannot find the path specified", text)
        return _in_another_case(text, real["lstat"], real["listdir"])

    def in_use(path: str) -> bool:
        whole = os.path.realpath(path)
        found = []
        for number in real["listdir"]("/proc/self/fd"):
            with contextlib.suppress(OSError):  # that of this very list
                found.append(real["readlink"](f"/proc/self/fd/{number}"))
        with real_open("/proc/self/maps", encoding="utf-8") as maps:
            found += [line.split(maxsplit=5)[-1].strip() for line in maps if "/" in line]
        return any(one == whole or one.startswith(f"{whole}/") for one in found)

    def busy(*paths: str) -> None:
        for path in paths:
            if in_use(path):
                raise PermissionError(13, "The process cannot access the file because it is being used", path)

    def wrapped(name: str, count: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            paths = [folded(path) for path in arguments[:count]]
            if name in ("unlink", "remove"):
                busy(paths[0])
            if name == "rename":
                busy(paths[0])
                same = os.path.lexists(paths[1]) and os.path.samefile(*paths)
                if os.path.lexists(paths[1]) and not same:
                    raise FileExistsError(17, "Cannot create a file when that file already exists", paths[1])
            if name == "replace":
                busy(*paths)
                if os.path.isdir(paths[1]):
                    raise PermissionError(13, "Access is denied", paths[1])
            return real[name](*paths, *arguments[count:], **options)

        return call

    real_open = io.open

    def open_(file: Any, *arguments: Any, **options: Any) -> Any:
        return real_open(folded(file), *arguments, **options)

    for name, count in names.items():
        setattr(os, name, wrapped(name, count))
    builtins.open = io.open = open_  # type: ignore[assignment]


def _in_another_case(text: str, lstat: Callable[..., Any], listdir: Callable[[str], list[str]]) -> str:
    """``text`` with each part as it is on disk, as far as it is there."""
    try:
        lstat(text)
        return text
    except OSError:
        pass
    found = "/" if text.startswith("/") else ""
    for part in [part for part in text.split("/") if part]:
        try:
            lstat(found + part)
        except OSError:
            try:
                alike = [name for name in listdir(found or ".") if name.casefold() == part.casefold()]
            except OSError:
                alike = []
            part = alike[0] if alike else part
        found += f"{part}/"
    return found.rstrip("/") or "/"


def main() -> None:
    """A command, or with ``-c`` a program."""
    sys.argv = ["wdsr-edge", *sys.argv[1:]]
    install()
    if sys.argv[1] == "-c":
        exec(compile(sys.argv[2], "<program>", "exec"), {"__name__": "__main__", "Path": Path, "signal": signal})
        return
    for name in ("torch", "onnx"):  # whose packages for Windows are not at hand
        sys.modules[name] = None  # type: ignore[assignment]
    from wdsr_edge.cli import main as command

    command()


if __name__ == "__main__":
    main()
