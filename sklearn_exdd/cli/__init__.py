"""Command line of the library: check, fit, predict, evaluate, export and versions."""
