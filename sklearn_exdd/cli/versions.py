"""``versions``: what a report of a bug has to name."""

from sklearn_exdd._versions import show_versions
from sklearn_exdd.cli.command import DONE


def run(options):
    """Print the versions."""
    show_versions()
    return DONE
