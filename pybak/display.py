"""Names as people may see them: nothing in a name can move the cursor, hide text or break a line.

Only what is shown changes, never data. A name with control characters, format characters (bidi
overrides, zero-width blanks), lone surrogates or bytes that are no UTF-8 is shown in double
quotes with Python's escapes, and so is one that starts or ends with a blank or a quote; all other
names are shown as they are. The joiners U+200C and U+200D stay: scripts and emoji need them.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Iterable
from typing import Final

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_HARMLESS = "\u200c\u200d\u3000"  # joiners, and the blank of East Asian text
_WIDE_SELECTOR = "\ufe0f"  # asks for the emoji form, two columns wide
# Signs of our own that an encoding may lack, and what stands for them there.
_PLAIN = {"\N{HORIZONTAL ELLIPSIS}": "...", "\N{NO-BREAK SPACE}": " "}
# Characters that Markdown or HTML may take for markup, or that make a link of plain text.
_MARKUP = re.compile(r"[&<>\"'\\`*_{}\[\]()#+!|~$:@]|(?<=www)\.|^[-=]|^ +| +$", re.IGNORECASE)

ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"


def printable(name: str | bytes) -> str:
    """Give `name` (bytes, or text with surrogate escapes) as it may be shown, on one line."""
    text = os.fsdecode(name)
    if text.isascii() and text.isprintable() and text == text.strip(' "'):  # nearly every name
        return text
    shown = escape(text)
    if shown == text and text == text.strip(' "'):
        return text
    return '"' + "".join(map(_quoted_char, text)) + '"'


def escape(text: str) -> str:
    """Make a sentence safe to print on one line: escapes, but no quotes around it."""
    if text.isprintable():  # also means: no blank but the plain one
        return text
    return "".join(char if _is_harmless(char) else _escaped(char) for char in text)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or char in _HARMLESS


def _quoted_char(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if _is_harmless(char) else _escaped(char)


def _escaped(char: str) -> str:
    code = ord(char)
    if char in _NAMED:
        return _NAMED[char]
    if 0xDC80 <= code <= 0xDCFF:  # an undecodable byte, PEP 383
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0x7F:
        return f"\\x{code:02x}"
    # \x80 to \x9f would read like a byte, so control characters of that range are \u0080.
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def shell_word(path: str | bytes) -> str:
    """Give a path to paste into a shell: quoted when needed, as `$'…'` when it has controls."""
    text = os.fsdecode(path)
    if text.startswith("-"):
        text = "./" + text
    return _shell_text(text)


def shell_names(names: Iterable[str]) -> str:
    """Give names in a row, each as a shell takes it: commas and blanks inside part none."""
    return ", ".join(map(_shell_text, names))


def _shell_text(text: str) -> str:
    if escape(text) == text:
        return shlex.quote(text)
    inside = "".join(
        "\\" + char if char in "'\\" else char if _is_harmless(char) else _shell_escape(char)
        for char in text
    )
    return f"$'{inside}'"


def _shell_escape(char: str) -> str:
    # Octal bytes are always three digits, so that what follows can't be taken for one more.
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(char))


def columns(text: str) -> int:
    """How many terminal columns a shown text takes; never too few on a terminal of today.

    Emoji that are joined into one are counted one by one, and so take less than told.
    """
    if text.isascii():
        return len(text)
    return sum(map(_char_columns, text))


def _char_columns(char: str) -> int:
    if char == _WIDE_SELECTOR:
        return 1
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def shorten(text: str, width: int) -> str:
    """Cut a shown text in its middle so that it takes at most `width` columns.

    `docs/reports/2026/summary.txt` gives `docs/rep…/summary.txt`: the end, which tells files of
    a folder apart, keeps more than the start.
    """
    if columns(text) <= width:
        return text
    if width < 1:
        return ""
    head_width = (width - 1) // 3
    head = _head(text, head_width)
    tail = _head(text[::-1], width - 1 - columns(head))[::-1]
    # A mark that belonged to a character that was cut off must not sit on the ellipsis.
    while tail and _char_columns(tail[0]) == 0:
        tail = tail[1:]
    return head + ELLIPSIS + tail


def _head(text: str, width: int) -> str:
    used = 0
    for index, char in enumerate(text):
        used += _char_columns(char)
        if used > width:
            return text[:index]
    return text


def pad(text: str, width: int) -> str:
    """Fill a shown text up to `width` columns with blanks."""
    return text + " " * (width - columns(text))


def for_encoding(text: str, encoding: str | None) -> str:
    """Give text that a stream of this encoding can print: plain signs where ours are missing.

    Without an encoding ASCII is assumed. Characters of names that it lacks become escapes.
    """
    name = (encoding or "ascii").lower().replace("-", "").replace("_", "")
    if name in ("utf8", "utf16", "utf32"):
        return text
    for sign, plain in _PLAIN.items():
        text = text.replace(sign, plain)
    try:
        return text.encode(name, "backslashreplace").decode(name)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


def markdown(shown: str) -> str:
    """Give text that is safe to show, for Markdown, where it can be neither markup nor a link."""
    return _MARKUP.sub(lambda match: "".join(f"&#{ord(char)};" for char in match[0]), shown)
