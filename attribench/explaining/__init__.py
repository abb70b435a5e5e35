"""One method on one problem: what it found, what it cost, and how it ended."""
