"""Figures of an attribution: against the gold, and against the model itself."""
