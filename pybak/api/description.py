"""The OpenAPI document: FastAPI's own, with the answers' schemas and how to log in."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from pybak.api import views
from pybak.api.auth import endpoint
from pybak.api.auth.guard import SCHEME
from pybak.api.auth.scopes import SCOPES
from pybak.api.settings import ApiSettings

_TAGS: Final = [
    {"name": "overview", "description": "How all jobs are."},
    {"name": "runs", "description": "What ran, what runs, and why it failed."},
    {"name": "logs", "description": "What runs say."},
    {"name": "archives", "description": "What was saved, and single files of it."},
    {"name": "starting runs", "description": "Backups, restores, checks and prunes."},
    {"name": "tokens", "description": "The built-in token endpoint."},
]


def describe(app: FastAPI, settings: ApiSettings) -> None:
    """Have an application give its OpenAPI document; made once, when it is first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, settings)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, settings: ApiSettings) -> dict[str, Any]:
    made = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes,
        tags=_TAGS,
    )  # fmt: skip
    if settings.public_url is not None:
        made["servers"] = [{"url": settings.public_url}]
    components = made.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **views.schemas()}
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    components["securitySchemes"] = {SCHEME: _scheme(settings)}
    document: dict[str, Any] = views.with_examples(made)
    return document


def _scheme(settings: ApiSettings) -> dict[str, Any]:
    if settings.issuer is not None:
        url = f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration"
        return {
            "type": "openIdConnect", "openIdConnectUrl": url,
            "description": f"A token of this provider for the audience {settings.audience}.",
        }  # fmt: skip
    token_url = f"{settings.public_url or ''}{endpoint.PATH}"
    return {
        "type": "oauth2",
        "description": "Tokens of the built-in endpoint; make clients with deployments/clients.py.",
        "flows": {"clientCredentials": {"tokenUrl": token_url, "scopes": dict(SCOPES)}},
    }
