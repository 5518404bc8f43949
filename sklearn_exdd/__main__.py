"""Command line of the library, started by ``python -m sklearn_exdd`` or ``sklearn-exdd``."""

import sys

from sklearn_exdd.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
