"""What the API answers, one module a resource; `pybak.api.app` puts their routers together."""
