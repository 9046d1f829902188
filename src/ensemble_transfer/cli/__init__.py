"""The command line: Hydra entries, from configuration to objects, and errors in one clear line."""
