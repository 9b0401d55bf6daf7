"""What the API tells of jobs, runs and archives: over a real catalog with real archives."""

from __future__ import annotations

import json
import os
import threading
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from api_doubles import FLOW_RUN, Service, run
from catalogs import run_sql
from jobs import Job
from waiting import within

from pybak.api.files import ArchiveFiles
from pybak.api.services import StartedRun
from pybak.catalog.engine import Database
from pybak.catalog.stages import write_stages
from pybak.errors import PyBakError, StorageError
from pybak.overview import Overview
from pybak.overview.facts import Schedule
from pybak.stages import Stage

ODD = 'lettre \u00e9t\u00e9 "x" 50%.txt'


class Kept:
    """A job with two snapshots, and the service that shows it."""

    def __init__(self, place: Path, *, password: bytes | None = None, **settings: Any) -> None:
        self.job = Job(place)
        source = self.job.source
        (source / "letters").mkdir()
        (source / "letters" / "mum.txt").write_text("Dear mum\n")
        (source / ODD).write_text("odd\n")
        (source / "large.bin").write_bytes(bytes(range(256)) * 8192)
        (source / "empty").touch()
        os.symlink("letters/mum.txt", source / "link")
        self.job.run("full", password=password)
        (source / "letters" / "dad.txt").write_text("Dear dad\n")
        self.job.run(password=password)
        self.database = Database(self.job.url)
        self.asked = [0]

        def tell() -> bytes | None:
            self.asked[0] += 1
            return password

        self.service = Service(place, overview=lambda: Overview(self.database), **settings)
        self.service.app.state.context.files = ArchiveFiles(self.database, self.job.url, tell)

    def get(self, path: str, **more: Any) -> Any:
        answer = self.service.get(path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def download(self, archive: int, path: str | bytes, **more: Any) -> httpx.Response:
        return self.service.get(f"/archives/{archive}/members/{quote(path)}", **more)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("kept")
        patch.setenv("PYBAK_HOME", str(place / "home"))
        yield Kept(place)


@pytest.fixture(autouse=True)
def _same_home(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_HOME", str(kept.job.home))


def test_the_status_tells_of_every_job_how_old_its_newest_good_backup_is(kept: Kept) -> None:
    status = kept.get("/status")
    [job] = status["jobs"]
    assert (job["name"], job["state"]) == ("docs", "good")
    finished = datetime.fromisoformat(job["newest_good"]["finished_at"])
    assert job["newest_good"]["finished_at"].endswith("Z")
    assert 0 <= job["newest_good"]["age_seconds"] < 600
    assert datetime.now(UTC) - finished < timedelta(minutes=10)
    assert [run["kind"] for run in status["recent"]] == ["backup", "backup"]
    assert status["health"] == {"status": "ok", "orchestrator": "ok", "jobs": {"good": 1}}


def test_runs_at_work_come_with_their_progress_also_before_the_catalog_has_them(
    kept: Kept,
) -> None:
    waiting = StartedRun(flow_run_id=FLOW_RUN, kind="backup", job="docs", percent=42.0)
    service = Service(kept.job.home.parent, overview=lambda: Overview(kept.database))
    service.runs.at_work = [waiting]
    service.runs.due = {"docs": datetime(2030, 1, 1, tzinfo=UTC)}
    status = service.get("/status").json()
    assert [one["progress"]["percent"] for one in status["active"]] == [42.0]
    assert status["jobs"][0]["next_run"] == "2030-01-01T00:00:00Z"
    one = service.get(f"/runs/{FLOW_RUN}").json()
    assert (one["run"], one["progress"]["job"]) == (None, "docs")


class TestFailedBeforeItBegan:
    """Only the orchestrator knows of these: the catalog never heard of them."""

    @pytest.fixture
    def service(self, kept: Kept) -> Service:
        service = Service(kept.job.home.parent, overview=lambda: Overview(kept.database))
        at = datetime.now(UTC) - timedelta(hours=1)
        service.runs.bad = [
            StartedRun(
                flow_run_id=flow_run, kind=kind, job="docs", state="failed", started_at=at,
                finished_at=at, message="no backup of this job",
            )
            for flow_run, kind in ((FLOW_RUN, "verify"), ("recorded", "backup"))
        ]  # fmt: skip
        run_id = kept.get("/runs")["items"][0]["run_id"]
        run_sql(kept.job.url, f"UPDATE run SET flow_run = 'recorded' WHERE run_id = '{run_id}'")
        return service

    def test_they_are_told_beside_what_the_catalog_has(self, service: Service) -> None:
        for path in ("/status", "/runs", "/runs?job=docs&kind=verify&status=failed"):
            [early] = service.get(path).json()["failed_early"]
            assert (early["flow_run_id"], early["message"]) == (FLOW_RUN, "no backup of this job")
        later = (datetime.now(UTC) - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
        for query in ("kind=backup", "job=x", "status=success", f"since={later}"):
            assert service.get(f"/runs?{query}").json()["failed_early"] == []
        page = service.get("/runs?limit=1").json()
        rest = service.get(f"/runs?cursor={page['next']}").json()
        assert (len(page["failed_early"]), rest["failed_early"]) == (1, [])

    def test_a_job_whose_last_scheduled_run_did_so_has_a_problem(self, service: Service) -> None:
        """`pybak status` says the same."""
        service.runs.planned = {
            "docs": Schedule(
                next_run=datetime(2030, 1, 1, tzinfo=UTC), failed_flow_run=FLOW_RUN,
                failed_at=datetime.now(UTC) + timedelta(minutes=1),
            )
        }  # fmt: skip
        status = service.get("/status").json()
        [job] = status["jobs"]
        assert job["state"] == "problem"
        assert "before it began" in job["words"]
        assert status["health"]["status"] == "degraded"
        assert 'pybak_job_state{job="docs",kind="backup",state="problem"} 1' in (
            service.get("/metrics").text
        )


def test_schedules_that_take_long_are_not_waited_for_twice(kept: Kept) -> None:
    """They take queries for each job; what runs is shown meanwhile."""
    service = Service(kept.job.home.parent, overview=lambda: Overview(kept.database))
    orchestrated = service.app.state.context.orchestrated
    let_go = threading.Event()

    def schedules() -> Any:
        let_go.wait(60)
        return {"docs": Schedule(next_run=datetime(2030, 1, 1, tzinfo=UTC))}

    service.runs.schedules = schedules  # type: ignore[method-assign]

    async def look() -> None:
        with within(2):
            await orchestrated.look(0.1)
        assert orchestrated.answers
        assert orchestrated.next_runs == {}
        let_go.set()
        await orchestrated.look(5)
        assert orchestrated.next_runs == {"docs": datetime(2030, 1, 1, tzinfo=UTC)}

    run(look())


@pytest.mark.parametrize("trouble", [StorageError("down"), PyBakError("down")])
def test_a_silent_orchestrator_hides_nothing_that_the_catalog_knows(
    kept: Kept, trouble: PyBakError
) -> None:
    service = Service(kept.job.home.parent, overview=lambda: Overview(kept.database))
    service.runs.trouble = trouble
    status = service.get("/status")
    assert status.status_code == 200
    assert status.json()["health"]["orchestrator"] == "unreachable"
    assert status.json()["health"]["status"] == "degraded"
    assert len(status.json()["jobs"]) == 1
    assert service.get(f"/runs/{kept.job.snapshots[0].run_id}").status_code == 200
    assert service.get(f"/runs/{FLOW_RUN}").status_code == 503
    started = service.post("/compress", json={"job": "docs"})
    assert started.status_code == 503
    assert started.headers["content-type"] == "application/problem+json"


def test_runs_are_listed_page_by_page_and_by_what_they_are(kept: Kept) -> None:
    first = kept.get("/runs?limit=1")
    second = kept.get(f"/runs?limit=1&cursor={first['next']}")
    ids = [first["items"][0]["run_id"], second["items"][0]["run_id"]]
    assert ids == [one.run_id for one in reversed(kept.job.snapshots)]
    assert second["next"] is None
    assert kept.get("/runs?job=docs&kind=backup&status=success")["items"]
    for nothing in ("job=other", "kind=restore", "status=failed", "until=2001-01-01",
                    "since=2100-01-01"):  # fmt: skip
        assert kept.get(f"/runs?{nothing}")["items"] == []


def test_a_run_tells_of_its_archive(kept: Kept) -> None:
    run_id = kept.job.snapshots[-1].run_id
    write_stages(kept.job.url, run_id, [Stage(name="upload", start_seconds=0, wall_seconds=1.5)])
    run = kept.get(f"/runs/{run_id}")["run"]
    [stage] = run["stages"]
    assert stage == {
        "name": "upload",
        "start_seconds": 0.0,
        "wall_seconds": 1.5,
        "busy_seconds": None,
    }
    assert run["summary"]["run_id"] == run_id
    assert run["archive"]["summary"]["archive"] == str(kept.job.archives[-1])
    assert kept.get(f"/runs/{run_id}/errors") == {"items": [], "next": None}


def test_jobs_archives_and_one_archive(kept: Kept) -> None:
    assert [job["name"] for job in kept.get("/jobs")["items"]] == ["docs"]
    archives = kept.get("/archives?job=docs")["items"]
    assert [one["archive_id"] for one in archives] == [2, 1]
    one = kept.get("/archives/1")
    assert one["volumes"][0]["size"] == kept.job.archives[0].stat().st_size


def test_members_are_found_by_a_part_of_their_name(kept: Kept) -> None:
    whole = kept.get("/archives/1/members?limit=500")["items"]
    assert {one["path"] for one in whole} >= {"docs/letters/mum.txt", f"docs/{ODD}", "docs/link"}
    [found] = kept.get("/archives/1/members?match=mum")["items"]
    assert found["download"] == "/archives/1/members/docs/letters/mum.txt"
    assert kept.get("/archives/2/members?match=mum")["items"] == []
    [below] = [
        one for one in kept.get("/archives/1/members?prefix=docs/letters")["items"]
        if one["type"] == "file"
    ]  # fmt: skip
    assert below["path"] == "docs/letters/mum.txt"
    assert next(one for one in whole if one["path"] == "docs/link")["download"] is None


def test_every_link_to_a_file_gives_its_content(kept: Kept) -> None:
    found = 0
    for member in kept.get("/archives/1/members?limit=500")["items"]:
        if member["download"] is None:
            continue
        answer = kept.service.get(member["download"])
        assert answer.status_code == 200
        on_disk = (kept.job.source.parent / member["path"]).read_bytes()
        assert answer.content == on_disk
        assert int(answer.headers["content-length"]) == len(on_disk)
        found += 1
    assert found == 4


def test_a_download_is_never_shown_as_a_page(kept: Kept) -> None:
    answer = kept.download(1, f"docs/{ODD}")
    headers = answer.headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
    assert headers["content-disposition"] == (
        'attachment; filename="lettre _t_ _x_ 50_.txt"; '
        "filename*=UTF-8''lettre%20%C3%A9t%C3%A9%20_x_%2050_.txt"
    )


@pytest.mark.parametrize(
    "path",
    [
        "../docs/letters/mum.txt", "docs/../docs/letters/mum.txt", "/etc/passwd",
        "docs/letters/../../../../etc/passwd", "docs//letters/mum.txt", "etc/passwd",
        "docs/letters/mum.txt/", "./docs/letters/mum.txt", "docs\\letters\\mum.txt",
        "docs/letters/mum.txt\0", "docs/letters/*", "*", "docs/letters/dad.txt",
    ],
)  # fmt: skip
def test_only_the_very_name_of_a_member_gives_it(kept: Kept, path: str) -> None:
    """(case 47)"""
    raw = f"/archives/1/members/{quote(path, safe='')}"
    answer = kept.service.get(raw)
    assert answer.status_code == 404, answer.text
    assert "root:" not in answer.text


def test_folders_and_links_are_no_files_to_download(kept: Kept) -> None:
    for name in ("docs/letters", "docs/link"):
        answer = kept.download(1, name)
        assert answer.status_code == 422
        assert "only files can be had" in answer.json()["detail"]


def test_what_is_not_there_is_a_problem_that_says_so(kept: Kept) -> None:
    for path in (
        "/runs/nothing", "/archives/99", "/archives/99/members", "/archives/99/members/x",
        "/runs/nothing/errors", "/nowhere", "/logs?run=nothing",
    ):  # fmt: skip
        answer = kept.service.get(path)
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == 404


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "cursor=%00", "cursor=abc", "since=yesterday", "job=%00"],
)
def test_parameters_that_are_wrong_are_named(kept: Kept, query: str) -> None:
    answer = kept.service.get(f"/runs?{query}")
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] in ("invalid", "refused")


def test_encrypted_archives_are_opened_with_the_password_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    kept = Kept(tmp_path, password=b"correct horse")
    assert kept.download(1, "docs/letters/mum.txt").text == "Dear mum\n"
    assert kept.asked == [1]
    kept.service.app.state.context.files = ArchiveFiles(kept.database, kept.job.url, lambda: None)
    answer = kept.download(1, "docs/letters/mum.txt")
    assert (answer.status_code, answer.json()["code"]) == (409, "encrypted")
    kept.service.app.state.context.files = ArchiveFiles(
        kept.database, kept.job.url, lambda: b"wrong"
    )
    assert kept.download(1, "docs/letters/mum.txt").status_code == 409


def test_a_damaged_archive_never_gives_a_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    kept = Kept(tmp_path)
    [first, _] = kept.job.archives
    with zipfile.ZipFile(first) as opened:
        info = opened.getinfo("docs/large.bin")
        at = info.header_offset + info.compress_size // 2
    data = bytearray(first.read_bytes())
    data[at] ^= 0xFF
    first.write_bytes(data)
    try:
        answer = kept.download(1, "docs/large.bin")
    except (PyBakError, RuntimeError):
        return  # the connection breaks: the answer had begun
    assert answer.status_code == 409
    assert answer.json()["code"] == "damaged"


def test_an_archive_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    kept = Kept(tmp_path)
    kept.job.archives[0].unlink()
    answer = kept.download(1, "docs/letters/mum.txt")
    assert answer.status_code == 404
    assert "no longer there" in answer.json()["detail"]


def test_names_that_are_no_utf8_are_listed_and_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    os.makedirs(tmp_path / "docs")
    with open(os.fsencode(tmp_path / "docs") + b"/caf\xe9\n.txt", "wb") as file:
        file.write(b"raw")
    kept = Kept(tmp_path)
    answer = kept.service.get("/archives/1/members?limit=500")
    members = json.loads(answer.content)["items"]
    [odd] = [one for one in members if "caf" in one["path"]]
    assert odd["path"] == "docs/caf\udce9\n.txt"
    assert odd["download"] == "/archives/1/members/docs/caf%E9%0A.txt"
    answer = kept.service.get(odd["download"])
    assert answer.content == b"raw"
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"caf__.txt\"; filename*=UTF-8''caf__.txt"
    )


def test_metrics_are_what_prometheus_reads(kept: Kept) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    answer = kept.service.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {one.name: one for one in text_string_to_metric_families(answer.text)}
    assert all(one.type == "gauge" and one.documentation for one in families.values())
    [age] = families["pybak_job_newest_good_age_seconds"].samples
    assert age.labels == {"job": "docs", "kind": "backup"}
    assert 0 <= age.value < 600
    states = {one.labels["state"]: one.value for one in families["pybak_job_state"].samples}
    assert states["good"] == 1
    assert sum(states.values()) == 1
    [size] = families["pybak_job_stored_bytes"].samples
    assert size.value == sum(one.stat().st_size for one in kept.job.archives)
    assert families["pybak_up"].samples[0].value == 1


def test_anybody_may_ask_whether_it_is_alive_and_how_to_use_it(kept: Kept) -> None:
    assert kept.service.get("/health", token=None).json() == {"status": "ok"}
    assert kept.service.get("/openapi.json", token=None).status_code == 200
    for path in ("/docs", "/redoc", "/status", "/jobs", "/runs", "/metrics"):
        assert kept.service.get(path, token=None).status_code in (401, 404)


def test_a_catalog_that_cant_be_read_is_told_without_its_place(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"this is no database, but long enough for one" * 100)
    service = Service(tmp_path)
    for path in ("/health", "/status", "/runs"):
        answer = service.get(path)
        assert answer.status_code == 503, answer.text
        assert str(tmp_path) not in answer.text
