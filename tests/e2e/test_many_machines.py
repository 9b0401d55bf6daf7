"""A Dask scheduler and two workers on machines of their own, which are network namespaces here.

They see the sources at the same path, and reach the storage and the Prefect server over the network
alone; each has a PYBAK_HOME of its own. One of them loses its network in the middle of a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from backing_up import judge, noise, snapshot, unpack
from commands import PROJECT, Commands
from s3_servers import S3Server
from servers import running
from waiting import wait_for, within

from flows.support.cluster import ClusterError, choose, start_cluster

_BLOCK = 65536
_PORT = 8786


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Relay:
    """Hands connections on to a server of 127.0.0.1, and counts what comes from whom.

    `rate` is how many bytes a second each connection may bring.
    """

    def __init__(self, host: str, upstream: str) -> None:
        found = urlsplit(upstream)
        self._upstream = (found.hostname or "", found.port or 0)
        self._host = host
        self.port = 0
        self.rate: int | None = None
        self.sent: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        async def start() -> None:
            server = await asyncio.start_server(self._connected, self._host, 0)
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()

        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(start())
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")[0]
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(
                self._pump(reader, up_writer, peer), self._pump(up_reader, writer, None)
            )

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str | None
    ) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(_BLOCK):
                if peer is not None:
                    self.sent[peer] += len(block)
                    if self.rate is not None:
                        await asyncio.sleep(len(block) / self.rate)
                writer.write(block)
                await writer.drain()
        writer.close()

    def __enter__(self) -> Relay:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"


class Network:
    """A switch with machines at it; this one is its `gateway`, and reaches them all."""

    def __init__(self) -> None:
        self._mark = f"pb{os.getpid()}"
        self._range = f"10.99.{os.getpid() % 250 + 1}"
        self.gateway = f"{self._range}.254"
        self._machines: list[str] = []

    def __enter__(self) -> Network:
        try:
            _remove_leftovers()
            ip("link", "add", f"{self._mark}b", "type", "bridge")
            ip("addr", "add", f"{self.gateway}/24", "dev", f"{self._mark}b")
            ip("link", "set", f"{self._mark}b", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._machines:
            subprocess.run(["ip", "netns", "del", name], check=False, timeout=20)
        subprocess.run(["ip", "link", "del", f"{self._mark}b"], check=False, timeout=20)

    def machine(self) -> tuple[str, list[str]]:
        """Give a new machine's address, and what a command there begins with."""
        number = len(self._machines) + 1
        name, cable = f"{self._mark}-{number}", f"{self._mark}v{number}"
        ip("netns", "add", name)
        self._machines.append(name)
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", cable, "master", f"{self._mark}b", "up")
        address = f"{self._range}.{number}"
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", name, "link", "set", device, "up")
        return address, ["ip", "netns", "exec", name]

    def pull(self, address: str) -> None:
        """Pull a machine's cable."""
        ip("link", "set", f"{self._mark}v{address.rpartition('.')[2]}", "down")

    def plug(self, address: str) -> None:
        """Put it in again."""
        ip("link", "set", f"{self._mark}v{address.rpartition('.')[2]}", "up")


def _remove_leftovers() -> None:
    """Remove the networks of tests that were killed."""
    for found in Path("/sys/class/net").glob("pb*b"):
        pid = found.name[2:-1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            for space in Path("/run/netns").glob(f"pb{pid}-*"):
                ip("netns", "del", space.name)
            ip("link", "del", found.name)


class Machines:
    """The cluster: where its scheduler listens, and the addresses of its two workers."""

    def __init__(
        self, scheduler: str, workers: Sequence[str], network: Network, storage: Relay,
        env: dict[str, str],
    ) -> None:  # fmt: skip
        self.scheduler = scheduler
        self.workers = workers
        self.network = network
        self.storage = storage
        self.env = env


@pytest.fixture
def machines(prefect_server: str, tmp_path: Path, swift: S3Server) -> Iterator[Machines]:
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network())
        storage = stack.enter_context(Relay(network.gateway, swift.endpoint))
        prefect = stack.enter_context(Relay(network.gateway, prefect_server))
        path = urlsplit(prefect_server).path
        env = swift.environment() | {
            "AWS_ENDPOINT_URL_S3": storage.url, "PREFECT_API_URL": prefect.url + path,
        }  # fmt: skip
        there = env | {
            "PYTHONPATH": str(PROJECT),
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
        }
        dask = [sys.executable, "-m", "dask"]
        host, prefix = network.machine()
        scheduler = f"tcp://{host}:{_PORT}"
        words = ["scheduler", "--host", host, "--port", str(_PORT), "--no-dashboard"]
        stack.enter_context(running([*prefix, *dask, *words], tmp_path / "scheduler.log", there))
        workers = []
        for number in (1, 2):
            host, prefix = network.machine()
            words = ["worker", scheduler, "--host", host, "--nthreads", "1", "--no-dashboard"]
            own = there | {"PYBAK_HOME": str(tmp_path / f"home-{number}")}
            stack.enter_context(
                running([*prefix, *dask, *words], tmp_path / f"worker-{number}.log", own)
            )
            workers.append(host)
        two_workers(scheduler)
        yield Machines(scheduler, workers, network, storage, env)


def two_workers(scheduler: str) -> None:
    import distributed

    with distributed.Client(scheduler, timeout=30, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=30)


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give two large files, a stretch each, and a few small ones."""
    src = tmp_path_factory.mktemp("far") / "src"
    src.mkdir()
    for number, name in enumerate(("one", "two")):
        (src / name).write_bytes(noise(1 << 20, number) * 44)
    for number in range(20):
        (src / f"f{number:02d}").write_bytes(noise(20_000, number))
    return src


class Bucket:
    """What is in the bucket of an address."""

    def __init__(self, server: S3Server, address: str) -> None:
        self._client: Any = server.client()
        self._name = address.removeprefix("s3://").partition("/")[0]

    def holds(self) -> tuple[list[str], int]:
        """Give the keys, and how many uploads are open."""
        found = self._client.list_objects_v2(Bucket=self._name).get("Contents", [])
        uploads = self._client.list_multipart_uploads(Bucket=self._name).get("Uploads", [])
        return [one["Key"] for one in found], len(uploads)

    def settles(self, files: int) -> list[str]:
        """Wait until so many files and no uploads are listed, for a busy Swift lists late."""
        wait_for(lambda: (len(self.holds()[0]), self.holds()[1]) == (files, 0), 30, told=self.holds)
        return self.holds()[0]

    def fetch(self, key: str, folder: Path) -> Path:
        folder.mkdir()
        target = folder / key.rpartition("/")[2]
        self._client.download_file(self._name, key, str(target))
        return target


def is_whole(bucket: Bucket, src: Path, tmp_path: Path) -> Path:
    """See that the only file is an archive of all sources; give it."""
    (key,) = bucket.settles(1)
    archive = bucket.fetch(key, tmp_path / "got")
    judge(archive, ["unzip", "7zz"])
    assert snapshot(unpack(archive, tmp_path / "out") / "src") == snapshot(src)
    return archive


@pytest.mark.full
@pytest.mark.needs_root
@pytest.mark.needs_tool("ip")
@pytest.mark.needs_component("swift")
def test_two_machines_send_what_they_compress(
    src: Path, tmp_path: Path, swift: S3Server, s3_address: str, run_command: Commands,
    machines: Machines,
) -> None:  # fmt: skip
    """The run's own machine sends next to nothing."""
    report = run_command(
        "backup", src, "--to", s3_address, "--cluster", machines.scheduler, "--json",
        "--workers", "2", env={**machines.env, "PYBAK_HOME": str(tmp_path / "home")},
    ).json  # fmt: skip
    archive = is_whole(Bucket(swift, s3_address), src, tmp_path)
    assert report["bytes_stored"] == archive.stat().st_size
    sent = machines.storage.sent
    assert all(sent[worker] > 20 << 20 for worker in machines.workers), sent
    assert sent[machines.network.gateway] < 30 << 20, sent
    for home in (tmp_path / "home-1", tmp_path / "home-2", tmp_path / "home"):
        staging = home / "staging"
        assert not staging.exists() or os.listdir(staging) == []


@pytest.mark.needs_root
@pytest.mark.needs_tool("ip")
@pytest.mark.needs_component("swift")
def test_a_machine_that_is_cut_off_leaves_nothing_half_made(
    src: Path, tmp_path: Path, swift: S3Server, s3_address: str, run_command: Commands,
    machines: Machines,
) -> None:  # fmt: skip
    """In mid-part: another does its work, within a minute or so (case 64)."""
    victim = machines.workers[1]
    machines.storage.rate = 5 << 20
    home = tmp_path / "home"
    words = ("--to", s3_address, "--cluster", machines.scheduler, "--workers", "2")
    with (
        within(120),
        run_command.running(
            "backup", src, *words, env={**machines.env, "PYBAK_HOME": str(home)}
        ) as process,
    ):
        sent = machines.storage.sent
        wait_for(lambda: all(sent[worker] > 6 << 20 for worker in machines.workers), 60)
        machines.network.pull(victim)
        machines.storage.rate = None
        assert process.poll() is None
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert machines.storage.sent[victim] < 40 << 20, "its file was whole already"
    archive = is_whole(Bucket(swift, s3_address), src, tmp_path)
    assert os.listdir(home / "uploads") == []
    machines.network.plug(victim)  # and what it still has to say comes too late
    time.sleep(8)
    bucket = Bucket(swift, s3_address)
    (key,) = bucket.settles(1)
    assert bucket.fetch(key, tmp_path / "again").read_bytes() == archive.read_bytes()


@pytest.mark.full
@pytest.mark.needs_root
@pytest.mark.needs_tool("ip")
@pytest.mark.needs_component("swift")
def test_a_scheduler_that_is_cut_off_ends_the_run(
    src: Path, tmp_path: Path, swift: S3Server, s3_address: str, run_command: Commands,
    machines: Machines,
) -> None:  # fmt: skip
    """After its timeout of 30 s; nothing is left, though workers were sending (case 64)."""
    machines.storage.rate = 5 << 20
    home = tmp_path / "home"
    words = ("--to", s3_address, "--cluster", machines.scheduler, "--workers", "2")
    with run_command.running(
        "backup", src, *words, env={**machines.env, "PYBAK_HOME": str(home)}
    ) as process:
        wait_for(lambda: machines.storage.sent[machines.workers[0]] > 6 << 20, 60)
        machines.network.pull(urlsplit(machines.scheduler).hostname or "")
        machines.storage.rate = None
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the connection to the Dask scheduler was lost" in stderr
    assert stderr.count("\n") == 1
    Bucket(swift, s3_address).settles(0)
    assert os.listdir(home / "uploads") == []


def test_a_scheduler_that_never_answers_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        choose(address, 1)
        with (
            within(20),
            pytest.raises(ClusterError, match="no Dask scheduler answers"),
            start_cluster(),
        ):
            pass
