"""Leaves PyBak to itself for an hour, on real schedules, and looks at what came of it."""
