"""What people see of names is safe; what is stored is not touched."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from pybak.display import (
    columns,
    escape,
    for_encoding,
    markdown,
    pad,
    printable,
    shell_word,
    shorten,
)

PLAIN_NAMES = [
    "a.txt",
    "docs/with blanks (and) [globs] *?.txt",
    "back\\slash",
    'in"side',
    "Übergrößenträger",
    "日本語　ファイル",
    "नमस्ते",
    "नमस्\u200dते",
    "👩\u200d💻.md",
    "e\u0301",
    "",
]


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_an_ordinary_name_is_shown_as_it_is(name: str) -> None:
    assert printable(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", '"a\\nb"'),
        ("tab\there", '"tab\\there"'),
        ("\x1b[31mred\x1b[0m", '"\\x1b[31mred\\x1b[0m"'),
        ("\x1b]0;title\x07", '"\\x1b]0;title\\x07"'),
        ("del\x7f", '"del\\x7f"'),
        ("c1\x9b31m", '"c1\\u009b31m"'),
        ("txt.\u202egpj", '"txt.\\u202egpj"'),
        ("zero\u200bwidth", '"zero\\u200bwidth"'),
        ("line\u2028sep", '"line\\u2028sep"'),
        ("hard\u00a0blank", '"hard\\u00a0blank"'),
        ("\ud800", '"\\ud800"'),
        (b"caf\xe9", '"caf\\xe9"'),
        (b"both \\ and \xff", '"both \\\\ and \\xff"'),
        ('quote"\n', '"quote\\"\\n"'),
        (" leading", '" leading"'),
        ("trailing ", '"trailing "'),
        ('"quoted"', '"\\"quoted\\""'),
        ("\U000e0041", '"\\U000e0041"'),
    ],
)
def test_a_name_that_could_harm_a_terminal_is_quoted_and_escaped(
    name: str | bytes, shown: str
) -> None:
    """(case 7)"""
    assert printable(name) == shown


def test_no_character_at_all_reaches_the_terminal_unless_it_is_harmless() -> None:
    """(case 7)"""
    for start in range(0, 0x110000, 4096):
        shown = printable("a" + "".join(map(chr, range(start, start + 4096))))
        assert all(c.isprintable() or c in "\u200c\u200d\u3000" for c in shown)
        shown.encode()  # no surrogate is left


def test_different_names_never_look_the_same() -> None:
    names: list[str | bytes] = [
        "a\nb",
        "a\\nb",
        '"a\\nb"',
        b"a\xff",
        "a\u00ff",
        "a\x80",
        b"a\x80",
        "a\\x80",
    ]
    assert len({printable(name) for name in names}) == len(names)


def test_a_sentence_keeps_its_quotes_and_backslashes_but_loses_its_controls() -> None:
    assert escape('can\'t read "C:\\x"\n\x1b[2J') == 'can\'t read "C:\\x"\\n\\x1b[2J'


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("abc", 3),
        ("日本", 4),
        ("e\u0301", 1),
        ("한글", 4),
        ("👩\u200d💻", 4),
        ("❤\ufe0f", 2),
        ("", 0),
    ],
)
def test_columns_counts_what_a_terminal_needs(text: str, width: int) -> None:
    assert columns(text) == width


@pytest.mark.parametrize("width", range(40))
@pytest.mark.parametrize(
    "text",
    [
        "docs/reports/2026/summary.txt",
        "日本語/日本語.txt",
        "e\u0301" * 60,
        "👩\u200d💻" * 9,
        "ab",
    ],
)
def test_a_shortened_text_never_takes_more_than_its_width(text: str, width: int) -> None:
    short = shorten(text, width)
    assert columns(short) <= width
    assert short == text or width == 0 or "…" in short


def test_shortening_keeps_both_ends_and_more_of_the_end() -> None:
    assert shorten("docs/reports/2026/summary.txt", 21) == "docs/r…26/summary.txt"
    assert shorten("docs/a.txt", 10) == "docs/a.txt"


def test_pad_counts_columns_not_characters() -> None:
    assert pad("日本", 6) == "日本  "
    assert pad("too long", 3) == "too long"


@pytest.mark.parametrize("encoding", [None, "ascii", "ANSI_X3.4-1968", "iso-8859-1", "no-such"])
def test_a_terminal_without_utf8_gets_plain_signs(encoding: str | None) -> None:
    text = for_encoding("21\N{NO-BREAK SPACE}304 files … 日本", encoding)
    assert text == "21 304 files ... \\u65e5\\u672c"


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf_8"])
def test_a_terminal_with_utf8_gets_the_text_as_it_is(encoding: str) -> None:
    assert for_encoding("1\N{NO-BREAK SPACE}000 …", encoding) == "1\N{NO-BREAK SPACE}000 …"


@pytest.mark.parametrize(
    "name",
    [
        b"plain.zip",
        b"with blank.zip",
        b"it's",
        b"line\nfeed",
        b"\x1b[31m7",
        b"caf\xe9f0",
        b"-rf",
        "\u202e7日本'\\".encode(),
        b"\xc2\x85abc",
    ],
)
def test_a_shell_reads_back_the_path_that_was_shown(name: bytes) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    word = shell_word(name)
    assert "\n" not in word
    assert "\x1b" not in word
    command = os.fsencode(f"printf %s {word}")
    out = subprocess.run([bash, "-c", command], capture_output=True, check=True).stdout
    assert out == (b"./" + name if name.startswith(b"-") else name)


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=alert(1)>",
        "a|b",
        "*bold* _em_ `code` ~~gone~~",
        "[link](http://x.example)",
        "https://x.example/",
        "www.example.com",
        "me@example.com",
        "# heading",
        "- item",
        "&lt;",
        "new\nline",
    ],
)
def test_a_name_is_only_text_in_markdown(name: str) -> None:
    """(case 7)"""
    text = markdown(printable(name))
    for sign in "<>|*_`~[]()\n\\":
        assert sign not in text
    assert "://" not in text
    assert "www." not in text.lower()
    assert "@" not in text
    assert not text.startswith(("-", "#", "="))
