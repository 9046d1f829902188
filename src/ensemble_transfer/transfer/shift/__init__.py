"""The shift vector: what it is made of, how it is chosen, and what it did."""
