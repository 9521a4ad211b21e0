"""The one command: its options, its exit codes, its errors."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from typing import Annotated, Any

import typer

from .. import _interrupt
from .._errors import WdsrError
from .._version import __version__
from . import (
    benchmark,
    blend,
    calibrate,
    compile,
    deploy,
    doctor,
    download,
    evaluate,
    export,
    import_,
    models,
    train,
    upscale,
    verify,
)
from .output import say
from .pipes import let_go

app = typer.Typer(
    name="wdsr-edge",
    help="Take a WDSR super-resolution network from training to a camera: export, verify, time, run.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 1 ran but a check failed, 2 bad input or a missing engine.",
)
for command in (
    models,
    deploy,
    calibrate,
    compile,
    upscale,
    verify,
    benchmark,
    doctor,
    export,
    import_,
    train,
    blend,
    evaluate,
    download,
):
    app.command(name=command.__name__.rpartition(".")[2].rstrip("_"))(command.run)


class _Said(logging.Handler):
    """Log handler that prints progress of the packages, such as an engine being built, as lines on stderr.

    A warning is given once, however often a command comes upon its cause.
    """

    def __init__(self) -> None:
        super().__init__()
        self._warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno < logging.WARNING or text not in self._warned:
            say(text)
        if record.levelno >= logging.WARNING:
            self._warned.add(text)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; goes anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        return
    from ..backends.quiet import hush

    hush()


def main() -> None:
    """Entry point. Ends with exit code 0, 1 (a check failed) or 2 (bad input, one line on stderr)."""
    log = logging.getLogger("wdsr_edge")
    log.setLevel(logging.INFO)
    for earlier in [handler for handler in log.handlers if isinstance(handler, _Said)]:
        log.removeHandler(earlier)  # main was called before, as tests do
    log.addHandler(_Said())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that nothing half-written stays
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]  # wherever it stands
    try:
        _interrupt.unwind()
        code = app([word for i, word in enumerate(words) if word != "--debug" or i > end], standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read standard output has gone, which is nobody's error
        let_go()
        code = 1
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        if _interrupt.happened():  # an import that was cut short may raise anything
            code = 130
        elif debug:
            raise
        else:
            code = report(error)
    _interrupt.end_at_once()
    if code == 130:
        say(_interrupt.LINE)
    sys.exit(code)


def _command_of(error: Any) -> str:
    """``wdsr-edge train``, if that is where a usage error came up."""
    names: list[str] = []
    context = getattr(error, "ctx", None)
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return " ".join(["wdsr-edge", *names])


def report(error: Exception) -> int:
    """Print an error of the caller's as one line on stderr and return its exit code; raise what is a bug of ours."""
    if isinstance(error, MemoryError):
        text = f"out of memory ({error}): use a smaller frame or a smaller --tile"
    elif isinstance(error, (WdsrError, OSError)):
        text = str(error)
    elif hasattr(error, "format_message"):  # a usage error of Typer, whose classes are private
        text = f"{error.format_message().rstrip('.')}. Try '{_command_of(error)} --help'."
    else:
        raise error
    rank = re.fullmatch("[1-9][0-9]{0,5}", os.environ.get("RANK", ""))  # of torchrun
    who = f"wdsr-edge (process {rank[0]})" if rank else "wdsr-edge"
    say(f"{who}: {' '.join(text[:1000].split())}")
    return 2
