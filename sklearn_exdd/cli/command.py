"""The command line: runs a command, and says by its exit code how that went."""

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
        Those of the process.

    Returns
    -------
    code : int
        0 done, 1 a defect (if asked for) or an error that check found, 2 bad use, 3 some images could not be used, 4 an
        unexpected error, 130 interrupted.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # paths may hold what the terminal cannot print
    options = parser().parse_args(arguments)
    try:
        command = import_module(f"sklearn_exdd.cli.{options.command}")  # only now: --help takes no time
        return command.run(options)
    except (ImportError, OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return BAD_USE
    except KeyboardInterrupt:
        print("Interrupted: nothing is written.", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        # Python would end with code 1, which means a finding.
        traceback.print_exc()
        return FAILED
