"""The steps of the flows: one Prefect task a module, each one call into the engine."""
