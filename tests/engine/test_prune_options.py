"""The prune command's line: what it is told comes to one request."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from commands import PROJECT

from pybak.cli import PruneRequest, main, prune_command
from pybak.options import PruneOptions
from pybak.options.notices import NoticeOptions
from pybak.retention.policy import Policy
from pybak.retention.run import policy_of
from pybak.units import parse_duration

RETENTION = (PROJECT / "docs" / "retention.md").read_text()
OPERATIONS = (PROJECT / "docs" / "operations.md").read_text()


def asked(*words: str) -> PruneRequest:
    requests: list[PruneRequest] = []

    def run(request: PruneRequest) -> int:
        requests.append(request)
        return 0

    assert main(prune_command(run), list(words)) == 0
    (request,) = requests
    return request


def test_every_rule_reaches_the_policy() -> None:
    counts = {"last": 1, "hourly": 2, "daily": 3, "weekly": 4, "monthly": 5, "yearly": 6}
    words = [word for rule, count in counts.items() for word in (f"--keep-{rule}", str(count))]
    request = asked(
        "--job", "docs", *words, "--keep-within", "1y6mo", "--keep-tag", "a,b", "--keep-tag", "c"
    )
    assert request.job == "docs"
    assert policy_of(request.options) == Policy(
        **counts, within=parse_duration("1y6mo"), tags=("a,b", "c")
    )


def test_all_jobs_are_asked_for_on_the_line_and_beat_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYBAK_JOB", "docs")
    monkeypatch.setenv("PYBAK_ALL_JOBS", "1")
    assert asked("--keep-last", "1").job == "docs"
    assert asked("--keep-last", "1", "--all-jobs").job is None


def test_a_password_is_for_consolidating() -> None:
    words = ("--job", "docs", "--keep-last", "1", "--consolidate")
    assert asked(*words, "--password=secret").password.value == b"secret"
    assert not asked(*words).password
    request = asked(*words, "--password-block", "archives")
    assert request.options.password_block == request.password.block == "archives"
    assert "secret" not in repr(asked(*words, "--password=secret"))


def test_a_file_may_hold_the_rules(tmp_path: Path) -> None:
    (tmp_path / "prune.yaml").write_text("job: docs\nkeep_daily: 7\nkeep_tag: keep\n")
    options = asked("--config", str(tmp_path / "prune.yaml"), "--keep-daily", "8").options
    assert options == PruneOptions(keep_daily=8, keep_tag=["keep"])


def test_names_of_jobs_that_are_paths_are_taken_as_they_are() -> None:
    assert asked("--job", "/home/u/Docs, /etc", "--keep-last", "1").job == "/home/u/Docs, /etc"


@pytest.mark.parametrize("text", [RETENTION, OPERATIONS])
def test_what_the_documents_show_can_be_typed(text: str) -> None:
    lines = re.findall(r"^python flows/prune\.py (.*)$", text, re.MULTILINE)
    assert lines
    for line in lines:
        assert asked(*shlex.split(line)).options.dry_run


def test_the_document_tells_every_rule() -> None:
    for name in PruneOptions.model_fields.keys() - NoticeOptions.model_fields.keys():
        assert f"--{name.replace('_', '-')}" in RETENTION, name
