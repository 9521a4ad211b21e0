"""``python -m wdsr_edge`` is the ``wdsr-edge`` command."""

from .cli import main

main()
