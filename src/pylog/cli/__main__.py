"""`python -m pylog.cli` is the command `pylog`."""

import sys

from pylog.cli import main

sys.exit(main())
