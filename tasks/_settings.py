"""What all tasks share."""

from __future__ import annotations

from typing import Any, Final

from prefect.cache_policies import NO_CACHE

# No tags: one costs two requests to the API a task run. No caching: a cached path may be gone.
PLAIN: Final[dict[str, Any]] = {"cache_policy": NO_CACHE, "persist_result": False}
