"""Metrics, as pure functions on tensors; ``summary`` computes all of them."""
