"""Transfer of ensembles: what strategies share, the shift vector, and the strategies."""
