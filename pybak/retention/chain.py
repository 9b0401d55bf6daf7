"""Which chain a prune consolidates, what stands in its way, and what is needed afterwards."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

from pybak.catalog.facts import ArchiveFacts, Snapshot
from pybak.catalog.needs import Needs
from pybak.display import printable
from pybak.errors import PyBakError, WrongPasswordError
from pybak.formats.zip_aes import ADVICE
from pybak.problems import UNSUPPORTED, WRONG_PASSWORD, Problem
from pybak.report import error_code
from pybak.retention.policy import Verdict
from pybak.retention.reading import opens_secret


class Chain(NamedTuple):
    """A snapshot that is to get a full archive, and the archives that hold its members.

    `further` are the folders that the full archive is copied to (`pybak.retention.further`).
    """

    snapshot: Snapshot
    own: ArchiveFacts
    archives: tuple[ArchiveFacts, ...]
    further: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[ArchiveFacts, ...]:
        """Its archives, the newest last, and that of the snapshot's own run."""
        return (*(one for one in self.archives if one.id != self.own.id), self.own)


def find_chain(
    verdicts: Iterable[Verdict],
    needs: Needs,
    archives: Sequence[ArchiveFacts],
    lost: Container[str],
) -> Chain | None:
    """Give the oldest kept snapshot that needs archives of runs that are not kept.

    What only tells of members that others have taken over does not count: a full archive for each
    snapshot would free less than it takes. Snapshots in `lost`, by run id, whose archives are not
    all there, are passed over.
    """
    kept = [verdict.snapshot for verdict in verdicts if verdict.keep]
    runs = {snapshot.run_id for snapshot in kept}
    known = {one.id: one for one in archives if not one.is_leaving}
    own = {one.run_id: one for one in known.values()}
    old = [one.id for one in known.values() if one.run_id not in runs]
    with_old = needs.uses((one.seq for one in kept), with_bases=False).first_needed(old)
    for snapshot in sorted(kept, key=lambda one: one.seq):
        if snapshot.run_id in lost or snapshot.run_id not in own:
            continue
        if snapshot.seq in with_old:
            needed = sorted(needs.of(snapshot.seq, with_bases=False) & known.keys())
            return Chain(snapshot, own[snapshot.run_id], tuple(known[one] for one in needed))
    return None


def find_obstacle(chain: Chain, password: bytes | None) -> Problem | None:
    """Say why a chain can't be consolidated, as far as that shows without reading it through.

    Archives that are encrypted are opened with the password.
    """
    own = chain.own
    other = next((one for one in chain.all if one.format != own.format), None)
    if other is not None:
        return _refused(
            other, UNSUPPORTED, f"is {other.format}, and {printable(own.name)} is {own.format}"
        )
    secret = [one for one in chain.all if one.encrypted]
    if not secret:
        return None
    if not own.encrypted:
        what = f"is encrypted, and {printable(own.name)} is not, which would lay it open"
        return _refused(secret[0], UNSUPPORTED, what)
    if password is None:
        message = f"{printable(own.name)}: is encrypted, so its chain was left as it is; {ADVICE}"
        return Problem(own.name, WRONG_PASSWORD, message)
    return _of_password(chain, password)


def _of_password(chain: Chain, password: bytes) -> Problem | None:
    own = chain.own
    inside: set[bool] = set()
    for one in reversed(chain.all):  # its own archive first
        try:
            has_secrets = opens_secret(one, password)
        except WrongPasswordError as error:
            if one.id == own.id:
                return Problem(one.name, WRONG_PASSWORD, f"{error}; its chain was left as it is")
            what = f"has another password than {printable(own.name)}"
            return _refused(one, WRONG_PASSWORD, what)
        except PyBakError as error:
            return Problem(one.name, error_code(error, "prune"), str(error))
        inside.add(has_secrets)
        if len(inside) > 1:
            what = f"is encrypted in another way than {printable(own.name)}, or not at all"
            return _refused(one, UNSUPPORTED, what)
    return None


def _refused(archive: ArchiveFacts, code: str, what: str) -> Problem:
    message = (
        f"{printable(archive.name)}: {what}, so the two can't be consolidated; a full backup cuts "
        "the chain as well"
    )
    return Problem(archive.name, code, message)
