"""The ways to move an ensemble to a target task, one file each."""
