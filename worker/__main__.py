"""Runs the command without an installed script: `python -m worker run ...`."""

import sys

from worker.cli import main

sys.exit(main())
