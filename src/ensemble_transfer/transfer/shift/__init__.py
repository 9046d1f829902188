"""The shift vector, the choice whether to shift, and diagnostics."""
