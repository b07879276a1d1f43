"""What a report is made of, for whoever has something to report."""
