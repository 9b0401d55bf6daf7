"""The REST API: what the catalog knows, by HTTP, and runs that it starts and stops.

`pybak.api.app.create_app` makes it. Nothing here knows Prefect: what starts runs, reads their logs
and opens archives is handed in (`pybak.api.services`).
"""
