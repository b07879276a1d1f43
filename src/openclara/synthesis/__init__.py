"""Training records from plain documents: the data pipeline of salient compressor pretraining."""
