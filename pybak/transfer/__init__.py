"""Copies and moves archives from one storage to another, whatever these are."""
