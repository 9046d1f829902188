"""Tables, figures, pages, summaries and tracking, all made from records."""
