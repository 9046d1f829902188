"""Runs and extensions: prepare tasks and source ensemble, transfer, evaluate, and write all files."""
