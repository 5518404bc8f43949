"""Main function of the command line, which runs a command and returns its exit code."""

import sys
import traceback
from importlib import import_module

from sklearn_exdd.cli.arguments import parser

DONE, FOUND, BAD_USE, UNUSABLE, FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130


def main(arguments=None):
    """Run a command.

    Parameters
    ----------
    arguments : list of str, default=None
        Command-line arguments. None takes those of the process.

    Returns
    -------
    code : int
        0: done. 1: an image is called defective (only with --fail-on-defect), or check found an error. 2: wrong usage.
        3: some images or masks could not be used. 4: unexpected error. 130: interrupted.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # paths may contain characters that the terminal cannot print
    options = parser().parse_args(arguments)
    try:
        command = import_module(f"sklearn_exdd.cli.{options.command}")  # imported only now, so that --help is fast
        return command.run(options)
    except (ImportError, OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return BAD_USE
    except KeyboardInterrupt:
        print("Interrupted: nothing was written.", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        # Python would exit with code 1, which stands for a finding.
        traceback.print_exc()
        return FAILED
