"""Servers that speak S3: OpenStack Swift, which keeps its files on disk, and moto, a double.

Swift is the judge: it checks signatures, digests and conditions as Amazon does. moto knows what
Swift lacks (object lock, classes of storage, encryption headers, stored checksums) but takes wrong
digests and any secret.
"""

from __future__ import annotations

import getpass
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from components import find_component
from servers import all_running, free_port, running, wait_until

REGION = "us-east-1"
SECOND_ON_SWIFT = ("test:second", "secret")
"""Key and secret of another user, who may do the same."""


@dataclass(frozen=True)
class S3Server:
    """A server that runs, and the credentials that it takes."""

    endpoint: str
    key: str
    secret: str
    authority: Path | None = None
    """The file of the authority that signed its certificate."""

    def environment(self) -> dict[str, str]:
        """Give the variables that let Amazon's SDK and commands use it."""
        found = {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": REGION,
        }
        return found | ({"AWS_CA_BUNDLE": str(self.authority)} if self.authority else {})

    @cache  # noqa: B019 - there are few servers, and the SDK takes a second to start
    def session(self) -> Any:
        """Give a session of the SDK with these credentials."""
        import boto3.session

        return boto3.session.Session(self.key, self.secret, region_name=REGION)

    @cache  # noqa: B019
    def client(self) -> Any:
        """Give a client of the SDK, to look at what is there."""
        return self.session().client(
            "s3", endpoint_url=self.endpoint, verify=str(self.authority or "") or None
        )

    def new_bucket(self, **more: Any) -> str:
        """Make an empty bucket; give its name."""
        name = f"test-{uuid.uuid4().hex[:16]}"
        self.client().create_bucket(Bucket=name, **more)
        return name


@contextmanager
def running_moto(folder: Path) -> Iterator[S3Server]:
    """Run moto until the end of the block."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, folder / "moto.log") as process:
        server = S3Server(f"http://127.0.0.1:{port}", "testing", "testing")
        wait_until(lambda: httpx.get(server.endpoint), [process], folder)
        yield server


@contextmanager
def running_swift(folder: Path, certificate: tuple[Path, Path] | None = None) -> Iterator[S3Server]:
    """Run Swift until the end of the block, over TLS with (authority, certificate and key)."""
    programs = find_component("swift")
    assert programs is not None, "there is no Swift; run .ci/install-components"
    ports = {name: free_port() for name in ("proxy", "object", "container", "account")}
    _configure(folder, ports, certificate[1] if certificate else None)
    subprocess.run(
        [programs / "python", "-c", _RINGS, folder, *map(str, list(ports.values())[1:])],
        check=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    commands = {
        name: [programs / f"swift-{name}-server", folder / f"{name}.conf"] for name in ports
    }
    with all_running(commands, folder) as processes:
        authority = certificate[0] if certificate else None
        server = S3Server(
            f"{'https' if certificate else 'http'}://127.0.0.1:{ports['proxy']}",
            "test:tester", "testing", authority,
        )  # fmt: skip

        wait_until(lambda: server.client().list_buckets(), processes, folder)
        yield server


_RINGS = """
import sys
from swift.common.ring import RingBuilder
folder, *ports = sys.argv[1:]
for name, port in zip(("object", "container", "account"), ports):
    builder = RingBuilder(3, 1, 0)
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port),
                     "device": "d1", "weight": 1.0, "meta": "", "replication_ip": "127.0.0.1",
                     "replication_port": int(port)})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{name}.ring.gz")
"""

_PIPELINE = (
    "catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "s3api", "tempauth",
    "copy", "slo", "dlo", "versioned_writes", "symlink", "proxy-server",
)  # fmt: skip
_FILTERS = {
    "s3api": {"s3_acl": "false", "allow_multipart_uploads": "true", "location": REGION,
              "check_bucket_owner": "false", "min_segment_size": "5242880"},
    "tempauth": {"user_test_tester": "testing .admin", "user_test_second": "secret .admin"},
    "slo": {"min_segment_size": "1"},
    "versioned_writes": {"allow_object_versioning": "true"},
}  # fmt: skip


def _configure(folder: Path, ports: dict[str, int], certificate: Path | None) -> None:
    """Write the configuration of a Swift of one disk, which is the folder `disks/d1`."""
    for name in ("disks/d1", "cache"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    common = {
        "swift_dir": folder, "bind_ip": "127.0.0.1", "workers": 0, "user": getpass.getuser(),
        "log_level": "WARNING",
    }  # fmt: skip
    disk = {
        "devices": folder / "disks", "mount_check": "false", "disable_fallocate": "true",
        "recon_cache_path": folder / "cache",
    }  # fmt: skip
    _write(
        folder / "swift.conf",
        {
            "swift-hash": {"swift_hash_path_suffix": "t", "swift_hash_path_prefix": "t"},
            "swift-constraints": {"max_file_size": 5368709122},
        },
    )
    for name in ("object", "container", "account"):
        _write(
            folder / f"{name}.conf",
            {
                "DEFAULT": {**common, **disk, "bind_port": ports[name]},
                "pipeline:main": {"pipeline": f"{name}-server"},
                f"app:{name}-server": {"use": f"egg:swift#{name}"},
            },
        )
    tls = {"cert_file": certificate, "key_file": certificate} if certificate else {}
    sections: dict[str, dict[str, Any]] = {
        "DEFAULT": {**common, **tls, "bind_port": ports["proxy"]},
        "pipeline:main": {"pipeline": " ".join(_PIPELINE)},
        "app:proxy-server": {
            "use": "egg:swift#proxy", "account_autocreate": "true",
            "allow_account_management": "true",
        },
    }  # fmt: skip
    for name in _PIPELINE[:-1]:
        sections[f"filter:{name}"] = {"use": f"egg:swift#{name}", **_FILTERS.get(name, {})}
    _write(folder / "proxy.conf", sections)


def _write(path: Path, sections: dict[str, dict[str, Any]]) -> None:
    lines = []
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {value}" for key, value in values.items())]
    path.write_text("\n".join(lines) + "\n")
