"""Tables, summaries and trackers, made from records and saved predictions alone."""
