"""The story of one run and of an extension: what it predicts, what it leaves, and where it was computed."""
