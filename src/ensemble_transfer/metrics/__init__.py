"""Metrics as pure functions on tensors; every metric of the table is put together in ``summary``."""
