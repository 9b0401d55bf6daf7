"""What servers, SDKs and people say, made fit to be shown: in one line, without secrets of URLs."""

from __future__ import annotations

import re
from typing import Final

_USER: Final = re.compile(r"""(?:(?<=//)|(?<=endpoint: )|(?<=["'`])(?=[^\s"'`/]*:))[^\s"'`<>]*@""")
_QUERY: Final = re.compile(r"\?[^\s\"'`<>]+")


def bare(said: object) -> str:
    """Give a text in one line, without the users, passwords and queries of its URLs."""
    return _QUERY.sub("", _USER.sub("", " ".join(str(said).split())))
