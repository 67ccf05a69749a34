"""Scores, continual-learning metrics, and the report that is rendered from run folders."""
