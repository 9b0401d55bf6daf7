"""The dashboard: how all backups are, in a browser, and files back from them.

`pybak.dashboard.app.create_dashboard` makes an ASGI application that is served beside the REST API
and asks the same services. It has a login of its own (`login`), pages made with Dash (`pages`), and
no queries: these are `pybak.overview`'s.
"""
