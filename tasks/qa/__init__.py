"""Multi-hop question answering (Welbl et al. 2018): which candidate answers a query, by mentions in documents."""

from .answering import QuestionAnswering

__all__ = ["QuestionAnswering"]
