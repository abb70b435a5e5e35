"""Sizes that more than one room minds."""

MAX_EDGES = 100_000
"""The most edges that one pass holds, unless told otherwise: larger batches are split."""
