"""The library from the shell: check, fit, predict and evaluate on folders of images; versions."""
