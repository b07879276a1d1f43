"""Text in, integer batches out."""
