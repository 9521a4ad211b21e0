"""Ctrl-C, whenever it comes: one line, exit code 130, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.command_line import Done
from wdsr_edge import _interrupt

HOOK = """
import importlib.abc, os, signal, sys

class Press(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # until it is there
                pass
            {then}

sys.meta_path.insert(0, Press())
"""


def pressed(folder: Path, name: str, *arguments: str, then: str = "pass", ignored: bool = False) -> Done:
    """The command, with Ctrl-C when module ``name`` is first imported, and ``then`` run after it."""
    (folder / "usercustomize.py").write_text("")
    (folder / "sitecustomize.py").write_text(HOOK.format(name=name, then=then))
    paths = os.pathsep.join([str(folder), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "wdsr_edge", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL),
        check=False,
        cwd=folder,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "name", ["numpy", "typer", "rich.console", "wdsr_edge.cli.app", "wdsr_edge.bundle", "PIL", "wdsr_edge.doctor"]
)
def test_while_modules_load(tmp_path: Path, name: str) -> None:
    done = pressed(tmp_path, name, "doctor")
    assert done == Done(130, "", f"{_interrupt.LINE}\n")


@pytest.mark.parametrize("then", ["raise ImportError('cut short')", "raise SystemError('no result')"])
def test_whatever_a_library_makes_of_it(tmp_path: Path, then: str) -> None:
    """Modules written in C may turn it into an error of their own."""
    swallowed = f"pass\n            {then}"
    hook = HOOK.replace("os.kill(os.getpid(), signal.SIGINT)", "hit()")
    (tmp_path / "hit.py").write_text(
        "import os, signal\n\ndef hit():\n    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "        for _ in range(1000):\n            pass\n    except KeyboardInterrupt:\n        pass\n"
    )
    (tmp_path / "sitecustomize.py").write_text(
        "from hit import hit\n" + hook.format(name="wdsr_edge.doctor", then=swallowed)
    )
    done = subprocess.run(
        [sys.executable, "-m", "wdsr_edge", "doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, f"{_interrupt.LINE}\n")


def test_what_a_shell_starts_in_the_background_ignores_it(tmp_path: Path) -> None:
    done = pressed(tmp_path, "typer", "--version", ignored=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_that_imports_the_package_keeps_its_own() -> None:
    code = "import signal, wdsr_edge; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    restored = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, preexec_fn=restored)
    assert done.stdout == "True\n"
    assert not _interrupt.is_command()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["python", "-m", "wdsr_edge", "doctor"], True),
        (["python", "-X", "utf8", "-m", "wdsr_edge"], True),
        (["python", "/venv/bin/wdsr-edge", "doctor"], True),
        (["C:/venv/Scripts/wdsr-edge.exe"], True),
        (["python", "-m", "pytest", "wdsr-edge"], False),
        (["python", "train.py", "-m", "wdsr_edge.zoo"], False),
        (["python"], False),
    ],
)
def test_what_is_the_command(words: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", words)
    assert _interrupt.is_command() == expected
