"""Exact nearest rows by matrix products."""
