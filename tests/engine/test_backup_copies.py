"""Archives that are put in more places in one run: `--also-to`."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backing_up import Made, Outcome, back_up, noise, unpack
from catalogs import query
from dying import die_at
from msgspec.structs import replace
from storage.memory import Failing, MemoryStorage
from transferring import archives_of, places_of, transfer

from pybak.backup import copies as copies_module
from pybak.backup import record
from pybak.backup.catalog_base import JobHistory
from pybak.backup.record import NOT_COPIED, write_backup
from pybak.backup.run import BackupRun
from pybak.catalog.recorder import RunRecorder
from pybak.errors import ExistsError, NotFoundError, PlanError, StorageError
from pybak.home import home
from pybak.options import BackupOptions, RestoreOptions
from pybak.report import BackupReport
from pybak.restore.ask import ask
from pybak.restore.run import RestoreRun
from pybak.storage import opening
from pybak.storage.local_folder import FolderStorage
from pybak.transfer import streaming

NOW = datetime.now(UTC) + timedelta(seconds=5)
NEAR, FAR = "s3://near/x", "gs://far"


@dataclass
class Job:
    """Backups of `src` to `to`, recorded, with copies, as the flow makes them."""

    tmp_path: Path

    @property
    def src(self) -> Path:
        return self.tmp_path / "src"

    @property
    def to(self) -> Path:
        return self.tmp_path / "to"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.tmp_path}/catalog.db"

    def run(
        self, *also_to: str | Path, to: str | Path | None = None, number: int = 0,
        before_copies: Callable[[BackupRun], object] = lambda _run: None, **options: Any,
    ) -> BackupReport:  # fmt: skip
        now = NOW + timedelta(seconds=61 * number)
        recorders: list[RunRecorder] = []
        made: list[BackupReport] = []

        def begin(run: BackupRun) -> JobHistory:
            recorder = RunRecorder(
                self.url, run.run_id, kind="backup", job=run.job, options={}, now=now
            )
            recorders.append(recorder)
            run.seq = recorder.seq
            assert recorder.history is not None
            return JobHistory(recorder.history, run.job)

        def after(run: BackupRun, report: BackupReport, finished: Made) -> None:
            problem = recorders[0].finish(
                status=report.status, counts={}, now=now,
                write=lambda connection: write_backup(
                    connection, run=run, report=report, **finished._asdict(), now=now
                ),
            )  # fmt: skip
            assert problem is None
            before_copies(run)
            copies = [
                run.copy(report, number, lambda *_: None)
                for number in range(len(run.copies.places))
            ]
            made.append(run.with_copies(report, copies))
            if run.copies:
                record.record_copies(self.url, made[0])
                needed = record.earlier_archives(self.url, run.run_id)
                lacking = run.copies.with_lacking(made[0].copies, needed)
                made[0] = replace(made[0], copies=lacking)

        done: Outcome = back_up(
            self.src, to=to or self.to, job="docs", begin=begin, after=after, now=now,
            also_to=[str(one) for one in also_to], **options,
        )  # fmt: skip
        if not made:
            recorders[0].finish(status=done.report.status, counts={}, now=now)
        return made[0] if made else done.report

    def rows(self) -> list[Any]:
        """What the catalog says of runs: status, message, and whether there is a snapshot."""
        return query(self.url, "SELECT status, message, is_snapshot FROM run ORDER BY seq")

    def can_be_restored(self) -> bool:
        shares = ask("latest", job="docs", at=None, catalog_url=self.url).shares(self.url)
        with RestoreRun(shares, str(self.tmp_path / "restored"), RestoreOptions()) as run:
            return run.rehearse().status == "success"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    small = streaming.Stream.__init__

    def init(self: Any, *given: Any, **more: Any) -> None:
        small(self, *given, **{**more, "window": 20_000, "part_bytes": 40_000})

    monkeypatch.setattr(streaming.Stream, "__init__", init)
    job = Job(tmp_path)
    job.src.mkdir()
    (job.src / "large").write_bytes(noise(150_000))
    (job.src / "text").write_text("some text")
    return job


@pytest.fixture
def storages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give what makes storages known besides folders."""
    real = opening._open

    def use(*storages: Any) -> None:
        known = {one.address: one for one in storages}

        def give(address: str) -> Any:
            return known[address] if address in known else real(address)

        monkeypatch.setattr(opening, "_open", give)

    return use


def memory(address: str) -> MemoryStorage:
    return MemoryStorage(address, least=1)


def listed(folder: Path) -> dict[str, bytes]:
    """Give what people see of it."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def new_of(now: dict[str, bytes], before: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in now.items() if name not in before}


def notes() -> list[str]:
    folder = home() / "uploads"
    return os.listdir(folder) if folder.is_dir() else []


def test_an_archive_lies_in_all_places_under_one_name(
    job: Job, storages: Callable[..., None]
) -> None:
    far = memory(FAR)
    storages(far)
    report = job.run(job.tmp_path / "b", FAR)
    assert report.status == "success"
    ((name, data),) = listed(job.to).items()
    assert listed(job.tmp_path / "b") == {name: data}
    assert far.names == [name]
    assert far[name] == data
    assert [(one.archive, one.status) for one in report.copies] == [
        (f"{job.tmp_path}/b/{name}", "copied"), (f"{FAR}/{name}", "copied"),
    ]  # fmt: skip
    for copy in report.copies:
        assert [volume.sha256 for volume in copy.volumes] == [hashlib.sha256(data).hexdigest()]
    assert places_of(job.url) == [(report.archive, *(one.archive for one in report.copies))]
    assert job.rows() == [("success", None, 1)]
    assert notes() == []


def test_volumes_and_files_of_checksums_are_copied_too(job: Job) -> None:
    report = job.run(
        job.tmp_path / "b", split="64KiB", checksum=["sha256"], format="tar.zst",
        password=b"correct horse",
    )  # fmt: skip
    assert report.status == "success"
    assert len(report.volumes) == len(report.copies[0].volumes) > 2
    assert listed(job.tmp_path / "b") == listed(job.to)
    assert len(listed(job.to)) == len(report.volumes) + 1


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_archive_in_a_storage_is_copied_from_there(
    job: Job, storages: Callable[..., None], wrapped: bool
) -> None:
    near, far = memory(NEAR), memory(FAR)
    storages(near, far)
    more = {"password": b"correct horse", "hide_names": True} if wrapped else {}
    report = job.run(job.tmp_path / "b", FAR, to=NEAR, **more)
    assert report.status == "success"
    (name,) = near.names
    assert [one.archive for one in report.copies] == [
        f"{job.tmp_path}/b/{name}", f"{FAR}/{name}",
    ]  # fmt: skip
    assert listed(job.tmp_path / "b") == {name: near[name]}
    assert far[name] == near[name]
    if not wrapped:
        archive = job.tmp_path / "b" / name
        assert (unpack(archive, job.tmp_path / "out") / "src/text").read_text() == "some text"
    assert not list((job.tmp_path / "b").glob(".*"))


@pytest.mark.parametrize("method", ["begin", "send", "complete", "stat"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_place_that_fails_in_the_middle_costs_its_own_copy_only(
    job: Job, storages: Callable[..., None], method: str, is_first: bool
) -> None:
    """(case 65)"""
    far, near = memory(FAR), memory(NEAR)
    is_on: list[bool] = []
    failing = Failing(far, lambda called, _: called == method and bool(is_on))
    storages(failing, near)
    places = (FAR, NEAR) if is_first else (NEAR, FAR)
    report = job.run(*places, before_copies=lambda _run: is_on.append(True))
    assert method in failing.fired
    ((name, data),) = listed(job.to).items()
    assert (far.names, far.uploads) == ([], {})
    assert near[name] == data
    assert report.status == "partial"
    assert {one.to: one.status for one in report.copies} == {FAR: "failed", NEAR: "copied"}
    ((path, code, message),) = ((e.path, e.code, e.message) for e in report.errors)
    assert (path, code) == (FAR, "storage")
    assert f"flows/transfer.py --job docs --to {FAR}" in message
    assert report.exit_code == 3
    assert report.headline() == (
        "Backup of docs is partial: 1 of 2 copies was not made; the archive itself is complete"
    )
    assert places_of(job.url) == [(report.archive, f"{NEAR}/{name}")]
    assert job.rows() == [("partial", None, 1)]
    assert query(job.url, "SELECT path, code FROM file_error") == [(FAR, "storage")]
    assert notes() == []


def test_a_place_that_is_missing_at_the_start_is_told_before_anything_is_read(
    job: Job, storages: Callable[..., None]
) -> None:
    far, near = memory(FAR), memory(NEAR)
    far.is_there = False
    storages(far, near)
    blocked = job.tmp_path / "file"
    blocked.touch()
    wanted = [FAR, str(blocked / "below"), NEAR]
    with BackupRun(
        [str(job.src)], output=None, to=str(job.to), job="docs",
        options=BackupOptions(also_to=wanted),
    ) as run:  # fmt: skip
        told = {one.to: one.message for one in run.copies.troubles()}
        assert list(told) == wanted[:2]
        assert "no such bucket" in str(told[FAR])
    report = job.run(*wanted)
    assert report.status == "partial"
    assert [one.status for one in report.copies] == ["failed", "failed", "copied"]
    assert [one.path for one in report.errors] == wanted[:2]
    assert near.names == os.listdir(job.to)
    assert far.calls["stat"] == far.calls["begin"] == 0


@pytest.mark.parametrize(
    ("also_to", "said"),
    [
        (["b", "b/"], "named twice"),
        ([FAR, f"{FAR}/"], "named twice"),
        (["to"], "the archive itself"),
        (["b", "s3:"], "names no bucket"),
        (["b", ""], "names no place"),
        (["b", "x" * 300], "too long"),
    ],
)
def test_what_is_no_further_place_is_refused(
    job: Job, storages: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
    also_to: list[str], said: str,
) -> None:  # fmt: skip
    storages(memory(FAR))
    monkeypatch.chdir(job.tmp_path)
    with pytest.raises(PlanError, match=said) as caught:
        job.run(*also_to)
    assert not isinstance(caught.value, NotFoundError)
    assert not job.to.exists()
    assert not (job.tmp_path / "b").exists()


def test_a_link_to_the_destination_is_no_further_place(job: Job) -> None:
    (job.tmp_path / "link").symlink_to(job.to)
    with pytest.raises(PlanError, match="the archive itself"):
        job.run(job.tmp_path / "link")


def test_the_name_is_one_that_is_free_everywhere(job: Job, storages: Callable[..., None]) -> None:
    far = memory(FAR)
    storages(far)
    stem = f"docs_{NOW.astimezone():%Y%m%d_%H%M%S}"
    second = job.tmp_path / "b"
    second.mkdir()
    (second / f"{stem}.zip").write_text("else")
    far.add(f"{stem}_2.zip.sha256", b"else")
    job.to.mkdir()
    (job.to / f"{stem}_3.zip").write_text("else")
    report = job.run(second, FAR, checksum=["sha256"])
    assert report.status == "success"
    assert report.archive == f"{job.to}/{stem}_4.zip"
    assert listed(job.to).items() - {(f"{stem}_3.zip", b"else")} == (
        listed(second).items() - {(f"{stem}.zip", b"else")}
    )


@pytest.mark.parametrize("taken", ["a.zip", "a.zip.sha256", "a.zip.007"])
def test_a_name_that_was_asked_for_and_is_taken_is_refused(job: Job, taken: str) -> None:
    second = job.tmp_path / "b"
    second.mkdir()
    (second / taken).write_text("else")
    with pytest.raises(ExistsError, match=f"{second}/{taken}: exists already"):
        BackupRun(
            [str(job.src)], output=str(job.to / "a.zip"), to=None, job=None,
            options=BackupOptions(also_to=[str(second)], split="1MB", checksum=["sha256"]),
        )  # fmt: skip
    assert not job.to.exists()
    assert os.listdir(second) == [taken]


def test_a_name_that_was_taken_meanwhile_stays_as_it_is(job: Job) -> None:
    second = job.tmp_path / "b"

    def take(run: BackupRun) -> None:
        (second / run.destination.name).write_text("else")

    report = job.run(second, before_copies=take)
    assert report.status == "partial"
    assert list(listed(second).values()) == [b"else"]
    assert len(places_of(job.url)[0]) == 1


def test_a_run_that_is_stopped_while_it_copies_keeps_and_records_its_archive(
    job: Job, storages: Callable[..., None]
) -> None:
    """(case 75)"""
    far, near = memory(FAR), memory(NEAR)
    runs: list[BackupRun] = []

    def stop(method: str, _count: int) -> bool:
        if method == "send" and runs:
            runs[0].request_cancel()
        return False

    storages(Failing(far, stop), near)
    report = job.run(FAR, NEAR, before_copies=runs.append)
    assert [one.status for one in report.copies] == ["cancelled", "cancelled"]
    assert far.calls["send"] > 0
    assert (far.files, far.uploads, near.files, near.uploads) == ({}, {}, {}, {})
    assert (report.status, report.exit_code) == ("partial", 3)
    assert places_of(job.url) == [(report.archive,)]
    assert job.can_be_restored()
    assert notes() == []


@contextmanager
def killed(step: int, work: Callable[[], object]) -> Iterator[None]:
    child = os.fork()
    if not child:
        changes = [(FolderStorage, name) for name in ("begin", "send", "complete", "put")]
        die_at(step, work, changes=changes, writers=[(record, "record_copies")])  # type: ignore[arg-type,list-item]
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    yield


STEPS = 12  # the first is the look at the folder, the last the end


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_kill_leaves_a_whole_copy_or_what_the_next_run_removes(job: Job, step: int) -> None:
    """The snapshot is there, and says that its copies are not (case 64)."""
    second = job.tmp_path / "b"
    with killed(step, lambda: job.run(second, split="100kB", format="tar")):
        (found,) = archives_of(job.url)
    main = listed(job.to)
    left = {name: data for name, data in listed(second).items() if name.endswith(".001")}
    is_whole = listed(second) == main
    assert is_whole or not left
    if step == STEPS - 1:
        assert (len(found.copies), job.rows()) == (1, [("success", None, 1)])
    else:
        assert (len(found.copies), job.rows()) == (0, [("partial", NOT_COPIED, 1)])
    assert job.can_be_restored()
    report = job.run(second, number=1, format="tar", split="100kB")
    assert report.status == "success"
    assert listed(second) == (listed(job.to) if is_whole else new_of(listed(job.to), main))
    assert not list(second.glob(".*"))
    assert notes() == []


def test_an_unchanged_run_copies_nothing(job: Job, storages: Callable[..., None]) -> None:
    far = memory(FAR)
    storages(far)
    job.run(FAR)
    report = job.run(FAR, job.tmp_path / "b", number=1, mode="incremental")
    assert (report.status, report.copies) == ("unchanged", ())
    assert len(far.names) == 1
    assert not (job.tmp_path / "b").exists()


def test_copies_inside_the_sources_are_left_out(job: Job) -> None:
    inside = job.src / "copies"
    job.run(inside)
    report = job.run(inside, number=1)
    assert report.status == "success"
    assert (report.files.total, report.files.excluded) == (2, 1)
    assert len(os.listdir(inside)) == 2


def test_a_restore_takes_the_copy_where_the_archive_is_gone(job: Job) -> None:
    second = job.tmp_path / "b"
    report = job.run(second)
    os.unlink(str(report.archive))
    shares = ask("latest", job="docs", at=None, catalog_url=job.url).shares(job.url)
    assert [share.archive for share in shares] == [report.copies[0].archive]
    assert job.can_be_restored()


def test_the_bandwidth_is_shared_by_all_storages_and_spares_folders(
    job: Job, storages: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    class Counting:
        def __init__(self, rate: int) -> None:
            assert rate == 5_000_000

        def take(self, size: int, _stop: object) -> None:
            taken.append(size)

    monkeypatch.setattr(copies_module, "Bandwidth", Counting)
    far, near = memory(FAR), memory(NEAR)
    storages(far, near)
    report = job.run(FAR, job.tmp_path / "b", NEAR, bandwidth_limit="5MB", upload_parts=2)
    assert report.status == "success"
    assert sum(taken) == 2 * report.bytes_stored
    assert max(far.at_once, near.at_once) <= 2


def test_an_archive_that_is_damaged_is_not_copied(job: Job) -> None:
    second = job.tmp_path / "b"

    def damage(_run: BackupRun) -> None:
        (archive,) = job.to.glob("[!.]*")
        with archive.open("r+b") as file:
            file.seek(1000)
            file.write(b"damaged!")

    report = job.run(second, before_copies=damage)
    assert report.status == "partial"
    assert "is not what was written" in report.errors[0].message
    assert list(second.glob("*")) == []


def test_a_dry_run_names_the_copies_and_makes_nothing(
    job: Job, storages: Callable[..., None]
) -> None:
    far = memory(FAR)
    far.is_there = False
    storages(far)
    scratch = job.tmp_path / "scratch"
    scratch.mkdir()
    with BackupRun(
        [str(job.src)], output=str(job.to / "a.zip"), to=None, job=None,
        options=BackupOptions(also_to=[str(job.tmp_path / "b"), FAR]), scratch=scratch,
    ) as run:  # fmt: skip
        kept = run.filter(run.discover())
        summary = run.plan_summary(run.plan(kept), kept)
    names = [f"{job.tmp_path}/b/a.zip", f"{FAR}/a.zip"]
    assert summary.to_json()["plan"]["copies"] == names
    assert (summary.status, summary.exit_code) == ("partial", 3)
    text = summary.to_text(200)
    assert f"Copies       {names[0]}\n             {names[1]}\n" in text
    assert "no such bucket" in text
    assert not (job.tmp_path / "b").exists()


def test_a_report_names_the_copies(job: Job, storages: Callable[..., None]) -> None:
    far = memory(FAR)
    storages(Failing(far, lambda method, _: method in ("put", "complete")))
    (job.src / "gone").symlink_to("nowhere")
    report = job.run(job.tmp_path / "b", FAR)
    name = os.path.basename(str(report.archive))
    text = report.to_text(200)
    assert f"Copies       {job.tmp_path}/b/{name}\n" in text
    assert "Failed: 1\n" in text
    assert FAR in text
    assert f"{FAR.replace(':', '&#58;')} | the storage broke" in report.to_markdown()
    told = report.to_json()["copies"]
    assert [(one["archive"], one["status"], len(one["volumes"])) for one in told] == [
        (f"{job.tmp_path}/b/{name}", "copied", 1), (f"{FAR}/{name}", "failed", 0),
    ]  # fmt: skip
    assert "the storage broke" in told[1]["message"]


def test_a_full_catalog_of_one_place_knows_no_copies(job: Job) -> None:
    report = job.run()
    assert (report.copies, report.to_json()["copies"]) == ((), [])
    assert [one.copies for one in archives_of(job.url)] == [()]
    assert job.rows() == [("success", None, 1)]


def test_storage_errors_stay_with_their_copy_while_names_are_chosen(
    job: Job, storages: Callable[..., None]
) -> None:
    far = memory(FAR)
    failing = Failing(far, lambda method, _: method == "stat", error=lambda: StorageError("cut"))
    storages(failing)
    report = job.run(FAR)
    assert failing.fired == ["stat"]
    assert report.status == "partial"
    assert report.errors[0].message.startswith("cut; to make up for it: ")


def test_a_place_that_lacks_earlier_archives_is_told_of_with_what_to_do(job: Job) -> None:
    job.run()
    (job.src / "second").write_text("another text")
    job.run(number=1, mode="incremental")
    (job.src / "text").write_text("other text")
    late = (
        job.tmp_path / "a second place, with a name that is longer than a terminal is wide, or so"
    )
    report = job.run(late, number=2, mode="incremental")
    (copy,) = report.copies
    command = f"python flows/transfer.py latest --job docs --to '{late}'"
    lacking = f"needs 2 earlier archives that are not there: {command}"
    assert (report.status, copy.status) == ("success", "copied")
    assert copy.to_json()["message"] == f"{late}: {lacking}"
    assert f"{lacking}\n" in report.to_text(80)
    transfer(job.url, "latest", job="docs", to=late)
    (job.src / "text").write_text("the last text")
    (copy,) = job.run(late, number=3, mode="incremental").copies
    assert copy.message is None


def test_a_place_that_is_the_archives_own_says_to_name_another(job: Job) -> None:
    def tie(run: BackupRun) -> None:
        (job.tmp_path / "b").rmdir()
        (job.tmp_path / "b").symlink_to(job.to)

    report = job.run(job.tmp_path / "b", before_copies=tie)
    told = report.copies[0].message or ""
    assert told.endswith("is the archive itself under another address; name another --also-to")
    assert report.status == "partial"


def test_what_is_to_be_typed_is_on_a_line_of_its_own(job: Job) -> None:
    def spoil(run: BackupRun) -> None:
        (job.tmp_path / "b").rmdir()
        (job.tmp_path / "b").write_text("no folder any more")

    report = job.run(job.tmp_path / "b", before_copies=spoil)
    command = f"python flows/transfer.py --job docs --to {job.tmp_path}/b"
    assert f"\n      {command}\n" in report.to_text(40)
