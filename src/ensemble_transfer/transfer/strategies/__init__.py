"""Strategies that transfer an ensemble to a target task, one file each."""
