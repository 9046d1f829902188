"""Source ensembles: trained on the source task, given, or copies where there is no such task."""
