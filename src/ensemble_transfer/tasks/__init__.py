"""Tasks, and the classes that load them."""
