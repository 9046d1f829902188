"""Transfer ensembles: the workbench, prices and budgets, the shift vector, and the strategies."""
