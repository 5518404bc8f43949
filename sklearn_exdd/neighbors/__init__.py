"""Exact nearest-neighbour search by matrix products."""
