"""Semantic role labelling: which words fill which roles of a predicate, found over the sentence's dependency tree."""

from .labelling import GNNRoles, RecurrentRoles

__all__ = ["GNNRoles", "RecurrentRoles"]
