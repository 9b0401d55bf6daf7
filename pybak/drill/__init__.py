"""Restore drills: a sample of a snapshot is restored and compared with what was recorded."""
