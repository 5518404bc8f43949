"""Main function of the command line. It runs a command and returns the exit code."""

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
        Command-line arguments. If None, the arguments of the process are used.

    Returns
    -------
    code : int
        Exit code:

        * 0: The command is done.
        * 1: An image was called defective (only with --fail-on-defect), or check found an error.
        * 2: The command was used wrongly.
        * 3: Some images or masks could not be used.
        * 4: An unexpected error occurred.
        * 130: The command was interrupted.
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
        # For an uncaught exception, Python would exit with code 1, which here means that something was found.
        traceback.print_exc()
        return FAILED
