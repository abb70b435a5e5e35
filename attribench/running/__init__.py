"""Plans, and how their pieces are run."""
