"""Graphs, a model of them, its gates, and what its output means."""
