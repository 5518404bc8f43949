"""Run the library from the shell: ``python -m sklearn_exdd --help``, or ``sklearn-exdd --help``."""

import sys

from sklearn_exdd.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
