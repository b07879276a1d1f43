"""Who carries out the tasks of data synthesis: an endpoint, a local model, or a few rules."""
