"""`-p/--password`, `PYBAK_PASSWORD` and `--password-block`: which of them counts, and what it says.

No password is ever shown: not in messages, not in the `repr` of a request.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from pybak.cli.output import View, print_warning
from pybak.cli.settings import Given, Setting, text
from pybak.errors import PlanError
from pybak.password import PASSWORD_VARIABLE, checked, encode, judge, looks_like_path, prompt

ASK: Final = "\0ask"
"""What `-p` without a password stands for; no word of a command line can hold a NUL."""
LOADERS: Final = "pybak.passwords"
_SHIELD: Final = "\0"
_GLUED: Final = ("--password=", "-p")
_NETWORK: Final = ("tcp://", "tls://")

PASSWORD: Final = Setting(
    "password",
    "The archive's password; -p alone asks for it. PYBAK_PASSWORD gives it too.",
    ("-p", "--password"), metavar="[PASSWORD]", bare=ASK, in_file=False,
)  # fmt: skip
BLOCK: Final = Setting(
    "password_block",
    "Prefect block that holds the password.",
    ("--password-block",), metavar="NAME",
)  # fmt: skip


@dataclass(frozen=True)
class Password:
    """The password as it was given: at once, to be asked for, by a block's name, or not at all."""

    value: bytes | None = field(default=None, repr=False)
    ask: bool = False
    block: str | None = None
    origin: str = ""

    def __bool__(self) -> bool:
        """Whether there is one at all."""
        return self.value is not None or self.ask or self.block is not None

    def settled(self, *, confirm: bool) -> Password:
        """Give the same with its value, asked for if need be: with `confirm` twice.

        Raises PlanError where nobody can be asked.
        """
        return replace(self, value=prompt(confirm=confirm), ask=False) if self.ask else self

    def secret(self) -> bytes | None:
        """Give the password itself, a block's too; None if there is none. Raises PlanError."""
        return load_block(self.block) if self.block is not None else self.value


def shielded(words: Sequence[str]) -> list[str]:
    """Give the words of a line for click, which takes `--password=-x` for two options.

    A password that begins with a dash gets a NUL in front, which `chosen_password` takes off.
    """
    end = words.index("--") if "--" in words else len(words)
    return [*map(_shielded, words[:end]), *words[end:]]


def _shielded(word: str) -> str:
    for start in _GLUED:
        if word.startswith(start + "-"):
            return start + _SHIELD + word[len(start) :]
    return word


def chosen_password(
    given: Mapping[str, Given],
    words: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> dict[str, Given]:
    """Keep the stronger one of password and block; both in one layer can't be meant.

    `words` is the command line, where `-p docs` most likely names a source. Raises PlanError,
    also for a PYBAK_PASSWORD that is empty: whoever sets it wants no open archive.
    """
    kept = dict(given)
    password, block = given.get("password"), given.get("password_block")
    if password is not None and password.layer == 0:
        if password.value.startswith(_SHIELD + "-"):
            kept["password"] = replace(password, value=password.value[1:])
        _check_word(password.value, words)
    if password is None and block is None and environ.get(PASSWORD_VARIABLE) == "":
        raise PlanError(f"{PASSWORD_VARIABLE}: is empty; unset it, or put the password there")
    if password is None or block is None:
        return kept
    if password.layer == block.layer:
        raise PlanError(
            f"{password.origin} and {block.origin} exclude each other; give the password one way"
        )
    del kept["password" if block.layer < password.layer else "password_block"]
    return kept


def _check_word(value: str, words: Sequence[str]) -> None:
    """Refuse `-p X` where X is there on disk; `-pX` and `--password=X` can only be meant."""
    if value != ASK and follows_password(words, value) and looks_like_path(value):
        raise PlanError(
            "--password: what follows it is there as a file or folder; put -p at the end of the "
            "line to be asked, or write --password=PASSWORD if it is one"
        )


def follows_password(words: Sequence[str], start: str) -> bool:
    """Whether a word that begins with `start` comes right after `-p` or `--password`."""
    end = words.index("--") if "--" in words else len(words)
    return any(
        left in PASSWORD.option_names and right.startswith(start)
        for left, right in pairwise(words[:end])
    )


def password_of(given: Mapping[str, Given]) -> Password:
    """Give the password that was given. Raises PlanError for an empty one."""
    if (block := given.get("password_block")) is not None:
        return Password(block=text(block), origin=block.origin)
    if (password := given.get("password")) is None:
        return Password()
    if password.value == ASK:
        return Password(ask=True, origin=password.origin)
    value = checked(encode(password.value), password.origin)
    return Password(value=value, origin=password.origin)


def check_reaches_workers(password: Password, cluster: str) -> None:
    """Refuse a password that workers on other machines could only get over the network."""
    if password and password.block is None and cluster.startswith(_NETWORK):
        raise PlanError(
            f"{password.origin}: does not reach the workers of {cluster}; "
            "keep it in a Prefect block and name that with --password-block"
        )


def warn_if_weak(password: bytes, view: View) -> None:
    """Say on stderr when an archive gets a password that is guessed soon."""
    if (weakness := judge(password)) and not view.quiet:
        print_warning(weakness)


def load_block(name: str) -> bytes:
    """Give the password that the Prefect block `name` holds.

    What loads it comes by the entry-point group `pybak.passwords`: a callable that takes the
    block's name and gives bytes. Raises PlanError where nothing of that kind is installed.
    """
    from importlib.metadata import entry_points

    for point in entry_points(group=LOADERS):
        password: bytes = point.load()(name)
        return password
    raise PlanError("--password-block: nothing is installed that reads blocks; use -p instead")


def hand_over(environ: MutableMapping[str, str], password: Password) -> None:
    """Leave a settled password where the flow and the workers of a local cluster find it.

    That is this process's environment, which they inherit; a block's name goes as a parameter.
    """
    if password.block is not None:
        environ.pop(PASSWORD_VARIABLE, None)
    elif password.value is not None:
        if b"\0" in password.value:
            raise PlanError("the password has a NUL byte, which no environment can hold")
        environ[PASSWORD_VARIABLE] = password.value.decode("utf-8", "surrogateescape")
