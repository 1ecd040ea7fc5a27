"""`python -m galpipe`."""

import sys

from galpipe.cli import main

sys.exit(main())
