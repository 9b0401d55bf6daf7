"""`python -m pybak` is the `pybak` command."""

import sys

from pybak.cli.program import pybak

if __name__ == "__main__":
    sys.exit(pybak())
