"""Where every error of a command becomes one sentence on stderr (of a file of settings: each
fault does) and an exit code.

0 done, 1 failed, 2 wrong usage, 65 the log is damaged, 74 the log could not be written, 130
interrupted, 141 nobody reads our output any more. Nothing
below this function prints an error, and nothing passes it as a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from meshmq.cli.output import note
from meshmq.errors import ConfigError, MeshError, StoreDamaged, StoreFailed

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DAMAGED = 65  # EX_DATAERR: starting again does not help, see `meshmq log repair`
EXIT_STORE_FAILED = 74  # EX_IOERR: look at the disk, then start again
EXIT_INTERRUPTED = 130  # what a shell reports for a program that SIGINT ended
EXIT_PIPE = 141  # ... and for one that SIGPIPE ended, as `yes | head -1` is

# typer exports BadParameter only; its bases are click's, or those of typer's own copy of click.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
_ClickError: type[Exception] = _UsageError.__bases__[0]


class CommandError(Exception):
    """A command cannot go on; the message is the whole sentence for the user."""


class ConfigFaults(ConfigError):
    """What is wrong with a file of settings.

    Attributes:
        faults: each ``FILE:LINE: reason``, at least one; each is a sentence of its own on stderr.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


class Interrupted(Exception):
    """The user stopped a command that has something to say about how far it came."""


def run(command: Any, argv: Sequence[str]) -> int:
    """Run ``command`` with ``argv`` and return the exit code."""
    try:
        with command.make_context("meshmq", list(argv)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except BaseException as error:
        return _explain(error)
    return 0


def _explain(error: BaseException) -> int:
    """Say what ``error`` means, unless it says nothing, and return the exit code."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        _forget_stdout()
        return EXIT_PIPE
    if isinstance(error, KeyboardInterrupt | Interrupted | typer.Abort):
        note(str(error) or "interrupted")
        # CPython remembers an interrupt that came inside the exec() of a string, as dataclasses
        # are made while modules are imported, and would at exit die of SIGINT although it was
        # handled here. Running another string makes it forget.
        exec("")
        return EXIT_INTERRUPTED
    if isinstance(error, _UsageError):
        note(_usage_sentence(error))
        return EXIT_USAGE
    if isinstance(error, MeshError | CommandError | _ClickError):
        for fault in error.faults if isinstance(error, ConfigFaults) else [error]:
            note(_one_line(fault))
        if isinstance(error, StoreDamaged):
            return EXIT_DAMAGED
        return EXIT_STORE_FAILED if isinstance(error, StoreFailed) else EXIT_FAILED
    if isinstance(error, OSError):
        note(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return EXIT_FAILED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else EXIT_FAILED
    if os.environ.get("MESHMQ_DEBUG"):
        raise error
    note(
        f"internal error, please report it ({type(error).__name__}: {_one_line(error)}); "
        "MESHMQ_DEBUG=1 shows where"
    )
    return EXIT_FAILED


def _usage_sentence(error: Any) -> str:
    text = _one_line(error.format_message()).rstrip(".")
    context = error.ctx
    path = context.command_path if context is not None else "meshmq"
    return f"{text} (see '{path} --help')"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _forget_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not fail again."""
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
