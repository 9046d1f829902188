"""The shift vector, the choice whether to shift, diagnostics, and alignment of channels."""
