"""The shift vector, its diagnostics, and shifts in turns."""
