"""The command line: each verb is the Python function of that name."""
