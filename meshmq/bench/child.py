"""Entry point of a measuring process: ``python -m meshmq.bench.child MODULE ROLE JOB``.

MODULE has a dict ``ROLES`` from role name to a function that takes a Job and returns what it
measured; that goes to standard output as one line, ``RESULT {json}``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from meshmq.bench.job import Job
from meshmq.errors import MeshError


def main() -> None:
    module, role, job = sys.argv[1:]
    try:
        result = importlib.import_module(module).ROLES[role](Job.from_json(job))
    except MeshError as error:
        sys.stderr.write(f"{error}\n")  # the parent passes the last line on
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.write(f"RESULT {json.dumps(result)}\n")
    sys.stdout.flush()
    # Client libraries measured here may hang while they close; what counts is already told.
    os._exit(0)


if __name__ == "__main__":
    main()
