"""``python -m meshmq`` is the ``meshmq`` command."""

from meshmq.cli import main

main()
