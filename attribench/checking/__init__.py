"""The contract suites that every method and every task must pass."""
