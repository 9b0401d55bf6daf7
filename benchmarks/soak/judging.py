"""Whether anything was lost, done twice or missed."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measure import REPOSITORY
from benchmarks.soak.feeding import Fed

_PAGE = 200


@dataclass(frozen=True)
class Round:
    """A run that a schedule asked for; times are aware, `ended` says its state."""

    flow: str
    due: datetime
    started: datetime | None
    seconds: float
    ended: str

    @property
    def is_good(self) -> bool:
        """Whether it did its work, be it that there was none."""
        return self.ended in ("Completed", "Unchanged", "Partial")


def rounds(api: str, since: datetime, until: datetime) -> list[Round]:
    """Give all runs that were due in between, in order."""
    with httpx.Client(base_url=api, timeout=30) as client:
        flows = {one["id"]: one["name"] for one in _all(client, "/flows/filter", {})}
        wanted = {
            "flow_runs": {
                "expected_start_time": {"after_": since.isoformat(), "before_": until.isoformat()}
            },
            "sort": "EXPECTED_START_TIME_ASC",
        }
        return [_round(one, flows) for one in _all(client, "/flow_runs/filter", wanted)]


def _all(client: httpx.Client, path: str, query: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        answer = client.post(path, json={**query, "limit": _PAGE, "offset": len(found)})
        page = answer.raise_for_status().json()
        found += page
        if len(page) < _PAGE:
            return found


def _round(run: Mapping[str, Any], flows: Mapping[str, str]) -> Round:
    started = run["start_time"]
    return Round(
        flow=flows.get(run["flow_id"], "?"),
        due=_moment(run["expected_start_time"]),
        started=_moment(started) if started else None,
        seconds=run["total_run_time"],
        ended=run["state_name"],
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def judge_inbox(fed: Fed, inbox: Path, destination: Path) -> list[str]:
    """Say what is wrong with the inbox; nothing, if every content is there just once."""
    wrong = [f"left behind: {path.name}" for path in sorted(inbox.rglob("*")) if path.is_file()]
    stored = Counter(
        hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
        for path in destination.rglob("*.gz")
    )
    wrong += [f"lost: {digest}" for digest in sorted(fed.contents - set(stored))]
    wrong += [f"{count} times: {digest}" for digest, count in stored.items() if count > 1]
    wrong += [f"never given: {digest}" for digest in sorted(set(stored) - fed.contents)]
    wrong += [f"half made: {path.name}" for path in destination.rglob(".pybak-*.tmp")]
    return wrong


def judge_documents(documents: Path, environ: Mapping[str, str], scratch: Path) -> list[str]:
    """Say how the newest snapshot, restored, differs from the documents."""
    target = scratch / "restored"
    words = ["flows/restore.py", "latest", "--job", "documents", "--to", str(target), "--json"]
    done = subprocess.run(
        [sys.executable, *words], env=environ, cwd=REPOSITORY, capture_output=True, check=False
    )
    if done.returncode:
        return [f"restore ended with {done.returncode}: {done.stderr.decode()[-500:]}"]
    told = json.loads(done.stdout)["status"]
    wrong = [] if told == "success" else [f"restore says {told}"]
    there, back = _digests(documents), _digests(target / documents.name)
    wrong += [f"differs: {name}" for name in sorted(there) if there[name] != back.get(name)]
    return wrong + [f"should be gone: {name}" for name in sorted(set(back) - set(there))]


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
