"""`-o` and its suffix: which format is meant, and which names are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pybak.cli.outputs import output_or_destination, settle_format
from pybak.cli.settings import Given
from pybak.errors import PlanError

LINE, ENVIRONMENT, FILE = 0, 1, 2
ORIGINS = {LINE: "--{}", ENVIRONMENT: "PYBAK_{}", FILE: "c.yaml: {}"}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def given(**values: tuple[Any, int]) -> dict[str, Given]:
    return {
        name: Given(value, ORIGINS[layer].format(name), layer)
        for name, (value, layer) in values.items()
    }


def settled(
    output: str,
    asked: str | None = None,
    *,
    layers: tuple[int, int] = (LINE, LINE),
    encrypted: bool = False,
    hides_names: bool = False,
) -> tuple[str, str | None]:
    """Give the name and the format (None: the default) that count."""
    layers_given = given(output=(output, layers[0]))
    if asked is not None:
        layers_given |= given(format=(asked, layers[1]))
    kept = settle_format(layers_given, encrypted=encrypted, hides_names=hides_names)
    return kept["output"].value, kept["format"].value if "format" in kept else None


def refusal(output: str, asked: str | None = None, **how: Any) -> str:
    with pytest.raises(PlanError) as caught:
        settled(output, asked, **how)
    return str(caught.value)


@pytest.mark.parametrize(
    ("output", "meant"),
    [
        ("x.zip", "zip"), ("x.tar", "tar"), ("x.tar.gz", "tar.gz"), ("x.tgz", "tar.gz"),
        ("x.tar.bz2", "tar.bz2"), ("x.tbz2", "tar.bz2"), ("x.tbz", "tar.bz2"),
        ("x.tar.zst", "tar.zst"), ("x.tzst", "tar.zst"), ("D/X.TAR.GZ", "tar.gz"),
        ("x.gz.zip", "zip"), ("x", None), ("x.backup", None), ("x.2026.11", None),
        ("x.2026", None),
    ],
)  # fmt: skip
def test_the_suffix_names_the_format(output: str, meant: str | None) -> None:
    assert settled(output) == (output, meant)


@pytest.mark.parametrize("layer", [ENVIRONMENT, FILE])
def test_a_suffix_beats_a_format_from_a_weaker_layer(layer: int) -> None:
    assert settled("x.tgz", "zip", layers=(LINE, layer)) == ("x.tgz", "tar.gz")
    assert settled("x", "tar", layers=(LINE, layer)) == ("x", "tar")


def test_a_suffix_that_contradicts_the_format_is_refused() -> None:
    assert refusal("x.tgz", "zip") == (
        "--output: x.tgz is a name for tar.gz, and --format is zip; name it x.zip"
    )
    assert refusal("x.zip", "tar.zst", layers=(FILE, LINE)).endswith("name it x.tar.zst")
    assert refusal("x.7z", "tar.gz") == (
        "--output: x.7z is a name for 7z, and --format is tar.gz; name it x.tar.gz"
    )
    assert settled("x.tgz", "tar.gz") == ("x.tgz", "tar.gz")


def test_a_format_that_is_none_is_left_for_the_model_to_refuse() -> None:
    assert settled("x.zip", "rar") == ("x.zip", "rar")


@pytest.mark.parametrize(
    ("output", "instead"),
    [
        ("x.tar.xz", "x.tar.zst"), ("x.txz", "x.tar.zst"), ("x.7z", "x.zip"), ("x.rar", "x.zip"),
        ("d/x.gz", "d/x.tar.gz"), ("x.zst", "x.tar.zst"), ("x.BZ2", "x.tar.bz2"),
    ],
)  # fmt: skip
def test_what_is_not_written_is_refused_with_what_is(output: str, instead: str) -> None:
    message = refusal(output)
    assert "which is not written here" in message
    assert f"name it {instead} " in message


def test_a_number_is_refused_because_volumes_get_theirs() -> None:
    assert refusal("x.tar.gz.001") == (
        "--output: x.tar.gz.001 is a name for a volume; name it x.tar.gz, --split adds the numbers"
    )


def test_a_wrapper_belongs_to_a_password() -> None:
    """`x.tar.zst.zip` holds `x.tar.zst`."""
    assert settled("x.tar.zst.zip", encrypted=True) == ("x.tar.zst", "tar.zst")
    assert settled("x.tar.zst.zip", "tar.zst", encrypted=True) == ("x.tar.zst", "tar.zst")
    assert refusal("x.tgz.zip").endswith("give a password with -p, or name it x.tgz")
    assert refusal("x.tar.gz.zip", "zip", encrypted=True).endswith("name it x.zip")


def test_a_zip_in_a_zip_hides_names() -> None:
    hidden = settled("x.zip.zip", encrypted=True, hides_names=True)
    assert hidden == ("x.zip", "zip")
    assert refusal("x.zip.zip", encrypted=True).endswith("add --hide-names, or name it x.zip")


def test_a_folder_is_no_output(tmp_path: Path) -> None:
    for output in (str(tmp_path), "d/"):
        assert refusal(output).endswith("is a folder; name a file, or give the folder as --to")


def test_names_that_are_no_utf8_are_shown_safely() -> None:
    """(case 7)"""
    assert '"a\\x1b\\xff.7z"' in refusal("a\x1b\udcff.7z")


def test_output_and_destination_of_one_layer_exclude_each_other() -> None:
    with pytest.raises(PlanError, match="exclude each other"):
        output_or_destination(given(output=("x", LINE), to=("d", LINE)))
    kept = output_or_destination(given(output=("x", FILE), to=("d", LINE)))
    assert set(kept) == {"to"}
