"""The shift vector, its diagnostics, and the result of a shift."""
