"""`python -m galpipe`."""

import sys

from galpipe.cli import program

sys.exit(program())
