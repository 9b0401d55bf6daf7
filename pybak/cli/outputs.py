"""`-o/--output` and what its suffix says: which format is meant, and which names can't be.

A suffix decides the format unless `--format` is given on the same layer or a stronger one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pybak.cli.settings import Given, text
from pybak.display import printable
from pybak.errors import PlanError
from pybak.formats.suffixes import FORMATS

# Suffixes of what is not written here, and what to use for it.
_FOREIGN: Final = {
    ".tar.xz": "tar.zst", ".txz": "tar.zst", ".tar.lz": "tar.zst", ".tar.lzma": "tar.zst",
    ".tar.lz4": "tar.zst", ".tar.br": "tar.zst", ".tar.z": "tar.gz",
    ".gz": "tar.gz", ".bz2": "tar.bz2", ".zst": "tar.zst", ".xz": "tar.zst",
    ".7z": "zip", ".rar": "zip",
}  # fmt: skip
_NUMBER = re.compile(r"\.\d{3,}$")


def output_or_destination(given: Mapping[str, Given]) -> dict[str, Given]:
    """Keep the stronger one of `output` and `to`; both in one layer can't be meant."""
    if "output" not in given or "to" not in given:
        return dict(given)
    output, to = given["output"], given["to"]
    if output.layer == to.layer:
        raise PlanError(
            f"{output.origin} and {to.origin} exclude each other; "
            "--output names the file, --to the folder"
        )
    weaker = "to" if output.layer < to.layer else "output"
    return {name: value for name, value in given.items() if name != weaker}


def settle_format(
    given: Mapping[str, Given], *, encrypted: bool, hides_names: bool
) -> dict[str, Given]:
    """Give what counts when the output's suffix has had its say about the format.

    The `.zip` of a wrapped archive (`x.tar.zst.zip` holds `x.tar.zst`) is left out of `output`.
    Raises PlanError for a folder, for a name of a format that is not written, and for a suffix
    that contradicts the format.
    """
    kept = dict(given)
    output = text(given.get("output"))
    if output is None:
        return kept
    origin = given["output"].origin
    if output.endswith("/") or os.path.isdir(output):
        raise PlanError(
            f"{origin}: {printable(output)} is a folder; name a file, or give the folder as --to"
        )
    inner, suffix = _unwrapped(output, origin, encrypted=encrypted, hides_names=hides_names)
    kept["output"] = replace(given["output"], value=inner)
    named, asked = FORMATS.get(suffix), given.get("format")
    if asked is not None and (asked.layer <= given["output"].layer or not suffix):
        if suffix and named != asked.value and asked.value in FORMATS.values():
            raise PlanError(
                f"{origin}: {printable(output)} is a name for {named or suffix[1:]}, and "
                f"{asked.origin} is {asked.value}; name it "
                f"{printable(_without(inner, suffix) + '.' + asked.value)}"
            )
    elif named is not None:
        kept["format"] = Given(named, origin, given["output"].layer)
    elif suffix:
        better = _without(inner, suffix) + "." + _FOREIGN[suffix]
        raise PlanError(
            f"{origin}: {printable(output)} is a name for {suffix[1:]}, which is not written "
            f"here; name it {printable(better)} (zip, tar, tar.gz, tar.bz2 and tar.zst are known)"
        )
    return kept


def _unwrapped(output: str, origin: str, *, encrypted: bool, hides_names: bool) -> tuple[str, str]:
    """Give the archive's name without a wrapper's `.zip`, and its suffix in small letters."""
    suffix = _suffix(output)
    if not suffix and (number := _NUMBER.search(output)) and _suffix(output[: number.start()]):
        raise PlanError(
            f"{origin}: {printable(output)} is a name for a volume; name it "
            f"{printable(output[: number.start()])}, --split adds the numbers"
        )
    inner = _without(output, ".zip")
    if suffix != ".zip" or _suffix(inner) not in FORMATS:
        return output, suffix
    if not encrypted:
        raise PlanError(
            f"{origin}: {printable(output)} is a name for an encrypted archive; "
            f"give a password with -p, or name it {printable(inner)}"
        )
    if _suffix(inner) == ".zip" and not hides_names:
        raise PlanError(
            f"{origin}: {printable(output)} is a name for a ZIP file inside another; "
            f"add --hide-names, or name it {printable(inner)}"
        )
    return inner, _suffix(inner)


def _suffix(name: str) -> str:
    """Give the longest suffix that is known (.tar.gz before .gz), or nothing."""
    small = os.path.basename(name).lower()
    fitting = (known for known in (*FORMATS, *_FOREIGN) if small.endswith(known))
    return max(fitting, key=len, default="")


def _without(name: str, suffix: str) -> str:
    return name[: -len(suffix)]
