"""Tries REST API and dashboard of a container over HTTP, as whoever has a client's name and secret.

    docker exec -i CONTAINER python3 - NAME SECRET SOURCE JOB <.ci/try_api.py

SOURCE is a folder that may be saved and JOB a name for that backup; archives go to the first root
of destinations, restores to the first of restores. Nothing but Python's own library is needed.
"""
# ruff: noqa: S310, T201 - addresses are this container's own; what was tried is told

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

PORT = os.environ.get("PYBAK_API_PORT") or "8000"
SECONDS = 180


def ask(
    path: str, body: object = None, token: str = "", form: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Give status and content of an answer; `body` is posted as JSON, `form` as a form."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None if form is None else urllib.parse.urlencode(form).encode()
    if body is not None:
        headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def expect(wanted: int, what: str, answer: tuple[int, bytes]) -> Any:
    """Give the content, from JSON where it is some; end the program if the status is another."""
    status, content = answer
    if status != wanted:
        sys.exit(f"{what}: {status}, not {wanted}: {content[:300]!r}")
    print(f"{what}: {status}")
    return json.loads(content) if content[:1] == b"{" else content


def log_in(name: str, secret: str) -> str:
    """Log in as a browser does, and give what the dashboard's first page is asked with."""
    form = urllib.parse.urlencode({"client": name, "secret": secret, "next": "/dashboard/"})
    connection = http.client.HTTPConnection("127.0.0.1", int(PORT), timeout=60)
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Origin": f"http://127.0.0.1:{PORT}", "Sec-Fetch-Site": "same-origin",
    }  # fmt: skip
    connection.request("POST", "/dashboard/login/client", form, headers)
    answer = connection.getresponse()
    content = answer.read()
    cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
    if answer.status != http.HTTPStatus.SEE_OTHER or not cookie:
        sys.exit(f"log in: {answer.status}: {content[:300]!r}")
    connection.request("GET", "/dashboard/", headers={"Cookie": cookie})
    answer = connection.getresponse()
    page = answer.read().decode()
    if answer.status != http.HTTPStatus.OK or "/dashboard/" not in page:
        sys.exit(f"the dashboard: {answer.status}: {page[:300]!r}")
    print(f"logged in, {len(page)} characters of a page")
    return cookie


def ended(token: str, started: dict[str, Any]) -> str:
    """Wait until a run has ended, and give its state."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        status, content = ask(f"/runs/{started['flow_run_id']}", token=token)
        progress = (json.loads(content) if status == http.HTTPStatus.OK else {}).get("progress")
        if progress and progress["state"] in ("completed", "failed", "crashed", "cancelled"):
            print(f"{started['kind']}: {progress['state_name']}, {progress['message']}")
            return str(progress["state"])
        time.sleep(2)
    sys.exit(f"{started['kind']}: not within {SECONDS} s: {content[:300]!r}")


def main(name: str, secret: str, source: str, job: str) -> None:
    """Try all of it; ends with a message at the first thing that is wrong."""
    to = os.environ["PYBAK_API_DESTINATION_ROOTS"].split(",")[0]
    restored = os.environ["PYBAK_API_RESTORE_ROOTS"].split(",")[0]
    expect(200, "health", ask("/health"))
    expect(401, "status without a token", ask("/status"))
    grant = {"grant_type": "client_credentials", "client_id": name}
    expect(401, "a wrong secret", ask("/oauth/token", form={**grant, "client_secret": "no"}))
    answer = ask("/oauth/token", form={**grant, "client_secret": secret})
    token = expect(200, "a token", answer)["access_token"]
    log_in(name, secret)
    expect(200, "status", ask("/status", token=token))

    outside = {"sources": ["/etc"], "to": to, "job": job}
    expect(403, "a source that is no root", ask("/compress", outside, token))
    backup = {"sources": [source], "to": to, "job": job}
    if ended(token, expect(202, "compress", ask("/compress", backup, token))) != "completed":
        sys.exit("the backup was none")
    archives = expect(200, "archives", ask(f"/archives?job={job}", token=token))["items"]
    query = f"/archives/{archives[0]['archive_id']}/members?limit=200"
    members = expect(200, "members", ask(query, token=token))["items"]
    file = next(one for one in members if one["type"] == "file" and one["size"])
    content = ask(file["download"], token=token)
    expect(200, f"download of {file['path']}", content)
    original = Path(source).parent / file["path"]
    for where, found in (("download", content[1]), ("catalog", None)):
        digest = hashlib.sha256(found).hexdigest() if found is not None else file["sha256"]
        if digest != hashlib.sha256(original.read_bytes()).hexdigest():
            sys.exit(f"{where}: {file['path']} is another")

    back = {"job": job, "to": f"{restored}/{job}"}
    if ended(token, expect(202, "restore", ask("/restore", back, token))) != "completed":
        sys.exit("the restore was none")
    copy = Path(restored, job, file["path"])
    if copy.read_bytes() != original.read_bytes():
        sys.exit(f"{copy} is another")
    status = expect(200, "status", ask("/status", token=token))
    [ours] = [one for one in status["jobs"] if one["name"] == job]
    if ours["state"] != "good" or status["health"]["orchestrator"] != "ok":
        sys.exit(f"the status is {ours['state']}, {status['health']}")
    print(ours["words"])


main(*sys.argv[1:])
