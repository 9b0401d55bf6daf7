"""Backups and an inbox on their real two-minute schedules, left to themselves.

    python -m benchmarks.soak --minutes 60
    python -m benchmarks.soak --minutes 24 --faults --record docs/soak.md      # as root

A real server, a real worker and `deployments/deploy.py`; meanwhile documents are edited and files
dropped into the inbox. With --faults the server is killed once, the worker is killed once, and the
disk of the destination is full for a while; nobody helps but by starting what was killed again,
as systemd would. At the end the newest snapshot is restored and compared, and every file that was
dropped must be stored just once. Ends with 1 if anything is lost, and without --faults also if a
round was missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import REPOSITORY
from benchmarks.soak.feeding import Feeder
from benchmarks.soak.judging import Round, judge_documents, judge_inbox, rounds
from benchmarks.soak.services import Service, free_port, wait_until_healthy

_SAMPLE_SECONDS = 15
_SETTLED = 8  # samples until all is imported and at work
_QUIET_SECONDS = 250  # two rounds of each, so that the last files are taken in
_DISK = "192m"
_FULL_SECONDS = 270  # two rounds of each


@dataclass
class Sample:
    """What was seen at one moment; sizes in bytes."""

    server: int
    worker: int
    run: int
    database: int
    catalog: int


@dataclass
class Soak:
    """One soak: its folders, its services, and what was seen."""

    scratch: Path
    environ: dict[str, str]
    url: str
    server: Service
    worker: Service
    samples: list[Sample] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))

    def tell(self, text: str) -> None:
        """Note what happens."""
        minutes = (datetime.now(UTC) - self.begun).total_seconds() / 60
        line = f"{minutes:5.1f} min  {text}"
        self.events.append(line)
        print(line, flush=True)

    def sample(self) -> None:
        """Weigh the processes and the databases."""
        server, _ = self.server.weigh()
        worker, run = self.worker.weigh()
        database = _size(self.scratch / "prefect" / "prefect.db")
        self.samples.append(
            Sample(server, worker, run, database, _size(self.scratch / "home" / "catalog.db"))
        )

    def wait(self, seconds: float) -> None:
        """Let time pass, and sample."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _SAMPLE_SECONDS))
            self.sample()


def main() -> None:
    """Soak, judge, and tell."""
    parser = argparse.ArgumentParser(description="Leave backups and an inbox to themselves.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument(
        "--faults", action="store_true", help="kill the server, the worker, fill the disk"
    )
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--record", type=Path, help="append what was seen to this file")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.faults and os.geteuid():
        parser.error("--faults mounts a small disk, which takes root")
    with tempfile.TemporaryDirectory(prefix="pybak-soak-", dir=chosen.scratch) as name:
        scratch = Path(name)
        with _small_disk(scratch / "backups", enabled=chosen.faults):
            text, is_well = _soak(scratch, chosen.minutes, chosen.faults, chosen.seed)
    print(text)
    if chosen.record is not None:
        with chosen.record.open("a", encoding="utf-8") as out:
            out.write(text)
    sys.exit(0 if is_well else 1)


def _soak(scratch: Path, minutes: float, faults: bool, seed: int) -> tuple[str, bool]:
    documents, inbox, backups = scratch / "documents", scratch / "inbox", scratch / "backups"
    feeder = Feeder(documents, inbox, seed)
    feeder.prepare()
    soak = _services(scratch, documents, inbox, backups)
    try:
        soak.server.start()
        wait_until_healthy(soak.url)
        subprocess.run(
            [sys.executable, "deployments/deploy.py", "backup", "inbox"],
            env=soak.environ, cwd=REPOSITORY, check=True,
        )  # fmt: skip
        soak.worker.start()
        soak.begun = datetime.now(UTC)
        soak.tell("deployed; the worker starts")
        feeder.start()
        if faults:
            _with_faults(soak, minutes * 60 - _QUIET_SECONDS, backups)
        else:
            soak.wait(minutes * 60 - _QUIET_SECONDS)
        feeder.stop()
        soak.tell("no more is fed")
        soak.wait(_QUIET_SECONDS)
        until = datetime.now(UTC)
        soak.worker.stop()
        seen = rounds(soak.url, soak.begun, until)
        wrong = judge_inbox(feeder.fed, inbox, backups / "inbox")
        wrong += judge_documents(documents, soak.environ, scratch)
    finally:
        soak.worker.stop()
        soak.server.stop()
    missed = [one for one in seen if not one.is_good and one.ended != "Running"]
    text = _record(soak, feeder, seen, wrong, minutes, faults=faults)
    return text, not wrong and (faults or not missed)


def _services(scratch: Path, documents: Path, inbox: Path, backups: Path) -> Soak:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(scratch / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PYBAK_HOME": str(scratch / "home"),
        "PYBAK_DEPLOY_SOURCE": str(documents),
        "PYBAK_BLOCK_FOLDER_PATH": str(backups),
        "PYBAK_BLOCK_FOLDER_NAME": "backups",  # where archives and the inbox's files go by default
        "PYBAK_DEPLOY_INBOX": str(inbox),
    }
    server = ["deployments/start.py", "server", "--host", "127.0.0.1", "--port", str(port)]
    return Soak(
        scratch, environ, url,
        Service(server, environ, scratch / "server.log"),
        Service(["deployments/start.py", "worker"], environ, scratch / "worker.log"),
    )  # fmt: skip


def _with_faults(soak: Soak, seconds: float, backups: Path) -> None:
    """Kill and fill at a quarter, a half and three quarters of the time."""
    quarter = (seconds - _FULL_SECONDS) / 4
    soak.wait(quarter)
    _again(soak, "server", soak.server, lambda: wait_until_healthy(soak.url))
    soak.wait(quarter)
    _again(soak, "worker", soak.worker, lambda: None)
    soak.wait(quarter)
    ballast = backups / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(1 << 16))
    soak.tell("the disk is full")
    soak.wait(_FULL_SECONDS)
    ballast.unlink()
    soak.tell("there is room again")
    soak.wait(quarter)


def _again(soak: Soak, name: str, service: Service, wait: Callable[[], None]) -> None:
    service.kill()
    soak.tell(f"the {name} was killed")
    time.sleep(10)
    service.start()
    wait()
    soak.tell(f"the {name} was started again")


@contextlib.contextmanager
def _small_disk(folder: Path, *, enabled: bool) -> Iterator[None]:
    folder.mkdir()
    if not enabled:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _record(
    soak: Soak, feeder: Feeder, seen: list[Round], wrong: list[str], minutes: float, *, faults: bool
) -> str:
    """Give what was seen, as a section of Markdown."""
    title = f"{minutes:.0f} minutes" + (" with faults" if faults else "")
    lines = [f"\n## {soak.begun:%Y-%m-%d %H:%M} UTC, {title}", ""]
    for flow in sorted({one.flow for one in seen}):
        ours = [one for one in seen if one.flow == flow]
        states = Counter(one.ended for one in ours)
        late = [(one.started - one.due).total_seconds() for one in ours if one.started]
        worked = sorted(one.seconds for one in ours if one.is_good)
        told = ", ".join(f"{count} {name}" for name, count in states.most_common())
        lines.append(
            f"- {flow}: {len(ours)} rounds were due: {told}. Began {max(late, default=0):.0f} s "
            f"after they were due at most; took {worked[len(worked) // 2] if worked else 0:.1f} s "
            f"in the middle, {worked[-1] if worked else 0:.1f} s at most."
        )
    fed = feeder.fed
    lines += [
        f"- Dropped into the inbox: {fed.files} files, {fed.duplicates} of them a second time.",
        f"- Lost, done twice or different: {len(wrong) or 'nothing'}.",
        *(f"  - {line}" for line in wrong[:20]),
        f"- Server: {_grown(soak, 'server')}; worker: {_grown(soak, 'worker')}.",
        f"- A run: {max((one.run for one in soak.samples), default=0) / 1e6:.0f} MB at most.",
        f"- Prefect's database: {_grown(soak, 'database')}.",
        f"- The catalog: {_grown(soak, 'catalog')}.",
        "", "```", *soak.events, "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _grown(soak: Soak, name: str) -> str:
    """Give the first and the last figure, where there is one."""
    values = [getattr(one, name) for one in soak.samples if getattr(one, name)]
    if not values:
        return "not seen"
    first = values[min(_SETTLED, len(values) - 1)]
    return f"{first / 1e6:.1f} MB at first, {values[-1] / 1e6:.1f} MB at last"


def _size(database: Path) -> int:
    files = (database, database.with_name(database.name + "-wal"))
    return sum(path.stat().st_size for path in files if path.exists())


if __name__ == "__main__":
    main()
