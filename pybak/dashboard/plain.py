"""The few pages without Dash: login, refusals, downloads that don't work. No script, one style."""

from __future__ import annotations

from html import escape as html
from typing import Final
from urllib.parse import urlencode

from starlette.responses import HTMLResponse

from pybak.dashboard.settings import PATH

_WHOLE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} &ndash; PyBak</title>
<link rel="icon" href="{path}/assets/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="{path}/assets/dashboard.css">
</head>
<body>
<main class="plain card">
<p class="brand">PyBak</p>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def page(title: str, body: str, status: int = 200) -> HTMLResponse:
    """Give a page; `body` is HTML, `title` text."""
    return HTMLResponse(_WHOLE.format(title=html(title), body=body, path=PATH), status)


def message(title: str, text: str, status: int, *, logout: bool = False) -> HTMLResponse:
    """Give a page with a sentence, and a way on."""
    way = f'<p><a class="button" href="{PATH}/">To the overview</a></p>'
    if logout:
        way = (
            f'<form method="post" action="{PATH}/logout">'
            '<button class="button primary" type="submit">Log out</button></form>'
        )
    return page(title, f"<p>{html(text)}</p>{way}", status)


def login(
    *, following: str, client: bool, provider: str | None, error: str = "", status: int = 200
) -> HTMLResponse:
    """Give the login page: for a `client`, for people of a `provider` with this host, or both."""
    parts = []
    if error:
        parts.append(f'<p class="notice bad" role="alert">{html(error)}</p>')
    hidden = f'<input type="hidden" name="next" value="{html(following)}">'
    if provider is not None:
        parts.append(
            # A link: a form's target must not lead to another host (form-action).
            f'<a class="button primary wide" href="{PATH}/login/provider?'
            f'{html(urlencode({"next": following}))}">Continue with {html(provider)}</a>'
        )
    if client and provider is not None:
        parts.append('<p class="or">or with a client</p>')
    if client:
        kind = "" if provider else " primary"
        parts.append(
            f'<form method="post" action="{PATH}/login/client">{hidden}'
            '<label for="client">Client</label>'
            '<input id="client" name="client" autocomplete="username" required '
            'autocapitalize="none" spellcheck="false">'
            '<label for="secret">Secret</label>'
            '<input id="secret" name="secret" type="password" required '
            'autocomplete="current-password">'
            f'<button class="button wide{kind}" type="submit">Log in</button></form>'
        )
    return page("Log in", "\n".join(parts), status)
