"""How the flows are served and scheduled: the place that knows everything."""
