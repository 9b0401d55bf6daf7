"""Helper processes: plain interpreters that do the work of a run's threads beside them."""
