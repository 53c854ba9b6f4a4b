"""Tests between rows: pairing of seeds and the statistics of a difference.

Nothing here reads a run folder or a cache.
"""
