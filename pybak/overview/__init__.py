"""The catalog as people ask for it: is it safe, how big, since when, what failed, where is my file.

What the REST API, the dashboard and `pybak status` show comes from here. Every list is a page of
bounded length and work (`pybak.overview.paging`), every query follows an index.
"""

from __future__ import annotations

from pybak.overview.overview import Overview
from pybak.overview.paging import Page

__all__ = ["Overview", "Page"]
