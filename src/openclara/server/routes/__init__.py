"""The routes of our own."""
