"""Tasks, and the places they come from."""
