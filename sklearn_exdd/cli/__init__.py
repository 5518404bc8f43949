"""The library from the shell: fit, predict and evaluate on folders of images; versions."""
