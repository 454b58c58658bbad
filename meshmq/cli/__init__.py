"""The ``meshmq`` command: one module a noun, the only place that prints.

Imports of this package stay light (no zmq, capnp or diskcache): commands import what they need when
they run, so that ``meshmq --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line ``argv`` (default: the process's own) and exit with its code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        from meshmq.cli.app import command
        from meshmq.cli.boundary import run

        tree = command(words[0] if words else "")  # all of it takes a tenth of a second as well
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run(tree, words))


__all__ = ["main"]
