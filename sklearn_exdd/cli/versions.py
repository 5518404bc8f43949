"""Command ``versions``: print the versions that a bug report should contain."""

from sklearn_exdd._versions import show_versions
from sklearn_exdd.cli.command import DONE


def run(options):
    """Print the versions."""
    show_versions()
    return DONE
