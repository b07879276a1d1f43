"""Our tasks for the lm-evaluation-harness: one file each, and what they share."""
