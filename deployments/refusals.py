"""What ends a command of this folder, in one line: PyBak's errors, and a server that refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from pybak.bare import bare
from pybak.errors import PyBakError
from pybak.prefect_refusals import refused
from pybak.prefect_server import AUTH_VARIABLE, named_url, setting


@contextmanager
def failures_told() -> Iterator[None]:
    """Raise ClickException, which ends with 1, for PyBak's errors and for a server's refusals."""
    try:
        yield
    except PyBakError as error:
        raise click.ClickException(str(error)) from error
    except click.ClickException:
        raise
    except Exception as error:
        import httpx

        if not isinstance(error, httpx.HTTPStatusError):
            raise
        told = refused(
            bare(named_url(os.environ) or "Prefect's server"),
            error.request.url.path.removeprefix("/api"),
            error.response.status_code,
            has_auth=setting(os.environ, AUTH_VARIABLE) is not None,
        )
        raise click.ClickException(told) from error
