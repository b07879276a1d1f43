"""An HTTP service and a page over one or more indexes."""
