"""Fits: recipes, what is trained, how groups of members are computed, remembered and billed."""
