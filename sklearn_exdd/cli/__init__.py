"""Command line of the library, with the commands check, fit, predict, evaluate, export and versions."""
