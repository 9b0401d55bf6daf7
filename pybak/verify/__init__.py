"""Checking archives without writing their contents anywhere."""
