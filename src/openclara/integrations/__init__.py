"""Doors to other people's harnesses and frameworks; each needs the extra of its name."""
