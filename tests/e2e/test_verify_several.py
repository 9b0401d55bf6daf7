"""`verify` of several archives: one that can't be read says nothing about the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Commands

PASSWORD = "zo0-Quagga.Fjord"


class World:
    """A good archive, a damaged one, a locked one, and a set that lacks a volume."""

    def __init__(self, place: Path, server: str) -> None:
        self.run = Commands(place, lambda: server)
        self.place = place
        (place / "docs").mkdir()
        (place / "docs/a.bin").write_bytes(bytes(range(256)) * 1000)
        self.make("good.zip")
        self.make("locked.zip", f"-p{PASSWORD}")
        self.make("bad.tar")
        self.make("cut.tar", "--split", "64KiB")
        data = bytearray((place / "bad.tar").read_bytes())
        data[100_000] ^= 1
        (place / "bad.tar").write_bytes(data)
        (place / "cut.tar.002").unlink()

    def make(self, name: str, *words: str) -> None:
        done = self.run("backup", self.place / "docs", "-o", name, "--quiet", *words)
        assert done.rc == 0, done


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> World:
    return World(tmp_path_factory.mktemp("several"), prefect_server)


def test_damage_is_told_whatever_else_could_not_be_read(world: World) -> None:
    names = ["bad.tar", "locked.zip", "cut.tar", "missing.zip", "good.zip"]
    done = world.run("verify", *names, "--json")
    assert done.rc == 1, done
    archives = done.json["archives"]
    assert [Path(one["archive"]).name for one in archives] == names
    assert [one["status"] for one in archives] == [
        "damaged", "failed", "failed", "failed", "success",
    ]  # fmt: skip
    assert archives[0]["damaged"] == ["docs/a.bin"]
    codes = [(Path(e["archive"]).name, e["path"], e["code"]) for e in done.json["errors"]]
    assert codes == [
        ("bad.tar", "docs/a.bin", "damaged"), ("locked.zip", "", "wrong_password"),
        ("cut.tar", "", "not_found"), ("missing.zip", "", "not_found"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "code"),
    [(("missing.zip", "locked.zip", "good.zip"), 12), (("good.zip", "cut.tar"), 10)],
)
def test_without_damage_the_exit_code_says_what_was_missing(
    world: World, names: tuple[str, ...], code: int
) -> None:
    done = world.run("verify", *names)
    assert done.rc == code, done
    assert all(name in done.stdout for name in names)
    assert "2 members" in done.stdout  # good.zip was read
    assert "0 members" not in done.stdout


def test_a_single_archive_that_is_not_there_ends_before_a_server_is_asked_for(
    world: World,
) -> None:
    done = world.run("verify", "missing.zip", env={"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    assert done.rc == 10, done
    assert done.stderr.endswith("/missing.zip: no such archive; check the path\n")
