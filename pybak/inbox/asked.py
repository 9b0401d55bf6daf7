"""What a round is asked for, checked before anything is touched."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pybak.backup.rules import Rules
from pybak.display import printable
from pybak.errors import NotFoundError, PlanError
from pybak.home import home
from pybak.inbox.addresses import addresses_of, check_nesting, located
from pybak.inbox.encode import Recipe
from pybak.options.inbox import InboxOptions, settle_seconds
from pybak.paths import user_path
from pybak.resources import default_workers, usable_cpus
from pybak.storage.opening import is_remote


@dataclass(frozen=True)
class Asked:
    """A round's folder, its places, and how files are chosen and packed.

    `addresses` are those of all places, the destination first; `roots` has for a block's folder
    the one around it that is never made. `others` are folders that must not lie in the inbox.
    """

    source: str
    addresses: tuple[str, ...]
    roots: dict[str, str]
    others: tuple[str, ...]
    encrypted: bool
    recipe: Recipe
    rules: Rules
    settle_seconds: float
    aside: Path | None
    options: InboxOptions

    @classmethod
    def of(cls, source: str, destination: str, options: InboxOptions, *, encrypted: bool) -> Self:
        """Take what people say; nothing is changed.

        Raises NotFoundError for a missing source, PlanError for what can't be a source or a
        destination, and for one inside the other.
        """
        path = user_path(source)
        if not path.exists():
            raise NotFoundError(f"{printable(source)}: does not exist; check the path")
        if not path.is_dir():
            raise PlanError(f"{printable(source)}: is no folder; name one")
        real = os.path.realpath(path)
        addresses = addresses_of(destination, options.also_to)
        to = options.duplicates_to
        named = [str(user_path(one)) for one in (to, options.staging) if one is not None]
        others = (*named, str(home()))
        check_nesting(real, addresses, others)
        recipe = Recipe(
            options.format, options.level, options.workers or default_workers(usable_cpus())
        )
        return cls(
            source=real, addresses=addresses, roots={}, others=others, encrypted=encrypted,
            recipe=recipe, rules=Rules.build(options.include, options.exclude),
            settle_seconds=settle_seconds(options.settle),
            aside=None if to is None else user_path(to), options=options,
        )  # fmt: skip

    def found(self) -> Self:
        """Find where blocks of local folders lie: they are folders like others from then on.

        Raises PlanError for a block that is none, or leads into the inbox; StorageError.
        """
        there = [located(address) for address in self.addresses]
        addresses = tuple(address for address, _ in there)
        check_nesting(self.source, addresses, self.others)
        roots = {address: root for address, root in there if root is not None}
        return replace(self, addresses=addresses, roots=roots)

    @property
    def job(self) -> str:
        """By what the catalog knows the inbox, and locks it."""
        return f"inbox {self.source}"

    @property
    def destination(self) -> str:
        """The first place's address, by which the catalog knows what was stored."""
        return self.addresses[0]

    @property
    def staging_parent(self) -> Path:
        """The folder that the staging folder is made in; the destination itself, if it is local."""
        if not is_remote(self.destination):
            return Path(self.destination)
        return user_path(self.options.staging or tempfile.gettempdir())
