"""One causal language model in three roles."""
