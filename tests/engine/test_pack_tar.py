"""What a tar archive holds and where: pieces, places in the manifest, the tail, metadata."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attributed import folder_with_attributes, set_acl
from backing_up import (
    MANIFEST,
    TARS,
    Outcome,
    back_up,
    judge_outcome,
    noise,
    prose,
    run_tool,
    shrink,
)
from moving import Script

from pybak.attributes import ACL_ACCESS
from pybak.backup import compress as compress_module
from pybak.backup.tar_entries import LARGE_ATTRIBUTES
from pybak.errors import SourceError
from pybak.formats.deflate import END
from pybak.formats.streams import codec
from pybak.formats.tar_footer import Footer, read_footer
from pybak.problems import ATTRIBUTES, CHANGED, IO_ERROR, UNREADABLE

PART = 60_000
BLOCK = 512


@pytest.fixture(autouse=True)
def _small_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch, part=PART)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Give one of everything, in several batches with -c 3."""
    folder = tmp_path / "src"
    (folder / "sub/empty").mkdir(parents=True)
    for number, size in enumerate((0, 1, 511, 512, 513, 9000, 30_000)):
        (folder / f"f{number}").write_bytes(prose(size, number))
    (folder / "large").write_bytes(noise(3 * PART + 5))
    (folder / "link").symlink_to("f1")
    os.link(folder / "f2", folder / "sub/other")
    os.mkfifo(folder / "fifo")
    with (folder / "sparse").open("wb") as file:
        file.truncate(100_000)
        file.seek(80_000)
        file.write(b"data")
    with open(os.fsencode(folder) + b"/sub/caf\xe9", "wb") as file:
        file.write(b"latin")
    (folder / ("n" * 200)).write_bytes(b"long")
    return folder


def lines(done: Outcome) -> Iterator[tuple[int, Any]]:
    """Yield each member's record and where its pieces begin in the tar stream."""
    at = base = 0
    for line in done.manifest.lines:
        if line.pieces is not None:
            base = at
            at += sum(plain for _, plain, _ in line.pieces)
        else:
            yield base, line


@pytest.mark.parametrize("kind", TARS)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_manifest_tells_where_every_member_lies(
    src: Path, tmp_path: Path, kind: str, chunk: int
) -> None:
    """Header and content, in bytes of the stream, as Python's tarfile finds them."""
    done = back_up(src, to=tmp_path / "out", format=kind, chunk_size=chunk)
    judge_outcome(done)
    plain = done.tar
    with done.opened_tar() as archive:
        members = {member.name: member for member in archive.getmembers()}
    found = dict.fromkeys(members)
    del found[MANIFEST]
    previous = 0
    for base, record in lines(done):
        member = members[record.path]
        head, data = base + record.at[0], base + record.at[1]
        assert head >= previous
        assert head == member.offset
        if record.sparse is None:
            assert data == member.offset_data
        else:
            assert data < member.offset_data  # tarfile counts the map to the header
        previous = data
        del found[record.path]
        if record.type == "f" and not record.parts and record.sparse is None:
            content = plain[data : data + record.size]
            assert hashlib.sha256(content).hexdigest() == record.sha256
        if record.parts:
            at = data
            for part in record.parts:
                assert hashlib.sha256(plain[at : at + part.size]).hexdigest() == part.sha256
                at += part.size
    assert found == {}


@pytest.mark.parametrize("kind", TARS)
def test_pieces_cover_the_stream_without_gaps(src: Path, tmp_path: Path, kind: str) -> None:
    """Each can be unpacked by itself, and has the checksum that is listed."""
    done = back_up(src, to=tmp_path / "out", format=kind, chunk_size=4)
    stored, plain = done.path.read_bytes(), done.tar
    how = codec(kind, 2)
    at, plain_at = len(how.start), 0
    for line in done.manifest.lines:
        for stored_size, size, crc in line.pieces or ():
            piece = unpack_piece(kind, stored[at : at + stored_size])
            assert piece == plain[plain_at : plain_at + size]
            assert zlib.crc32(piece) == crc
            at, plain_at = at + stored_size, plain_at + size
    with done.opened_tar() as archive:
        assert archive.getmembers()[-1].offset == plain_at
    assert footer_of(stored, kind).stored_at == at


def unpack_piece(kind: str, packed: bytes) -> bytes:
    if kind == "tar.gz":
        return zlib.decompressobj(-15).decompress(packed + END)
    from backing_up import unpacked

    return unpacked(packed, kind)


def last_piece(stored: bytes, kind: str) -> bytes:
    """Find the last piece from the end, as docs/formats.md says."""
    match kind:
        case "tar":
            return stored[-3 * BLOCK :]
        case "tar.gz":
            assert stored[-10:-8] == END
            head, piece = stored[-10 - 1536 - 5 : -10 - 1536], stored[-10 - 1536 : -10]
            assert struct.unpack("<BHH", head) == (0, 1536, 1536 ^ 0xFFFF)
            return piece
        case "tar.bz2":
            at = stored.rindex(b"1AY&SY", len(stored) - 4096) - 4
            assert stored[at : at + 3] == b"BZh"
            return unpack_piece(kind, stored[at:])
    (count,) = struct.unpack("<I", stored[-9:-5])
    table = len(stored) - 9 - 8 * count
    size, plain = struct.unpack("<II", stored[table + 8 * (count - 1) : table + 8 * count])
    assert plain == 1536
    return unpack_piece(kind, stored[table - 8 - size : table - 8])


def footer_of(stored: bytes, kind: str) -> Footer:
    piece = last_piece(stored, kind)
    assert len(piece) == 3 * BLOCK
    assert piece[BLOCK:] == bytes(2 * BLOCK)
    footer = read_footer(piece[:BLOCK])
    assert footer is not None
    return footer


@pytest.mark.needs_tool("tar", "gzip", "zstd")
@pytest.mark.parametrize("kind", TARS)
@pytest.mark.parametrize("files", [0, 1, 40])
def test_the_tail_leads_to_the_manifest_and_is_gzip_for_all(
    tmp_path: Path, kind: str, files: int
) -> None:
    """GNU tar extracts it, `gzip -t` likes it, and the footer tells where it lies."""
    src = tmp_path / "src"
    src.mkdir()
    for number in range(files):
        (src / str(number)).write_bytes(prose(3000, number))
    done = back_up(src, to=tmp_path / "out", format=kind)
    stored, plain = done.path.read_bytes(), done.tar
    assert len(plain) % BLOCK == 0
    footer = footer_of(stored, kind)
    with done.opened_tar() as archive:
        member = archive.getmembers()[-1]
    assert (member.name, member.mode) == (MANIFEST, 0o600)
    assert (footer.head, footer.content_size) == (member.offset, member.size)
    assert member.size % BLOCK == 0
    assert footer.head + BLOCK + footer.content_size + 2 * BLOCK == len(plain)
    pieces = stored[footer.stored_at : footer.stored_at + footer.stored_size]
    assert unpack_piece(kind, pieces) == plain[footer.head : -3 * BLOCK]
    run_tool("tar", "-xf", done.path, "-C", tmp_path, MANIFEST)
    run_tool("gzip", "-t", tmp_path / MANIFEST)
    content = (tmp_path / MANIFEST).read_bytes()
    text = gzip.decompress(content).decode("ascii").splitlines()
    assert len([line for line in text if line.startswith('{"path"')]) == files + 1
    assert text[-1].startswith('{"members"')
    assert len(list(lines(done))) == files + 1


@pytest.mark.parametrize("kind", ["tar.gz", "tar.zst"])
def test_a_manifest_of_several_pieces_is_found_too(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(monkeypatch, part=PART, piece=1536)
    src = tmp_path / "src"
    src.mkdir()
    for number in range(100):
        (src / str(number)).write_bytes(noise(10, number))
    done = back_up(src, to=tmp_path / "out", format=kind)
    judge_outcome(done)
    footer = footer_of(done.path.read_bytes(), kind)
    assert footer.content_size > 5000
    assert len(done.records) == 101


def test_all_sizes_of_a_manifest_are_padded_to_whole_blocks(tmp_path: Path) -> None:
    """By a gzip member that fills what is left, however little that is."""
    from pybak.backup.assemble_tar import _filler

    for size in range(BLOCK):
        filler = _filler(size)
        assert (len(filler) - size) % BLOCK == 0
        assert len(filler) < 2 * BLOCK
        assert gzip.decompress(filler) == b"" if filler else size == 0


@pytest.mark.parametrize("kind", TARS)
def test_nothing_at_all_is_an_archive_too(tmp_path: Path, kind: str) -> None:
    """A source that vanished: only the manifest is in it."""
    path = tmp_path / "f"
    path.write_bytes(b"x")
    done = back_up(path, to=tmp_path / "out", format=kind, before_reading=lambda _: path.unlink())
    judge_outcome(done)
    assert done.contents == {}
    assert footer_of(done.path.read_bytes(), kind).head == 0


def test_attributes_are_in_the_header_and_what_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 23)"""
    with folder_with_attributes(tmp_path) as folder:
        src = folder / "src"
        src.mkdir()
        for name, size in (("small", 10), ("middle", 30_000), ("large", 3 * PART)):
            (src / name).write_bytes(prose(size))
            os.setxattr(src / name, "user.note", f"of {name}".encode())
            set_acl(src / name, "u:12345:r")
        os.setxattr(src, "user.note", b"of the folder")
        done = back_up(src, to=tmp_path / "out", format="tar")
        judge_outcome(done)
        with done.opened_tar() as archive:
            for name in ("small", "middle", "large"):
                headers = archive.getmember(f"src/{name}").pax_headers
                assert headers["SCHILY.xattr.user.note"] == f"of {name}"
                assert "user:12345:r--" in headers["SCHILY.acl.access"]
            assert archive.getmember("src").pax_headers["SCHILY.xattr.user.note"] == "of the folder"

        def fail(target: bytes | int) -> dict[bytes, bytes]:
            if path_of(target).endswith((b"middle", b"large", b"small")):
                raise SourceError("input/output error", IO_ERROR)
            return {}

        monkeypatch.setattr("pybak.backup.tar_entries.read_attributes", fail)
        done = back_up(src, to=tmp_path / "out", format="tar")
        judge_outcome(done)
        assert len(done.contents) == 4
        assert done.errors == {str(src / name): IO_ERROR for name in ("small", "middle", "large")}
        assert {problem.message for problem in done.report.errors} == {
            "stored without its extended attributes: input/output error"
        }
        files = done.report.files
        assert (done.report.exit_code, files.new, files.failed, files.total) == (3, 0, 3, 3)


@pytest.mark.parametrize("size", [10, 30_000, 3 * PART])
def test_a_file_whose_attributes_do_not_fit_is_counted_once(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file is read twice (case 23)."""
    path = tmp_path / "f"
    path.write_bytes(prose(size))
    attributes = {b"user.\xff": b"x" * 3_000_000, b"user.small": b"kept", ACL_ACCESS: b"odd"}
    monkeypatch.setattr("pybak.backup.tar_entries.read_attributes", lambda _path: dict(attributes))

    def touch(fd: int, length: int, offset: int) -> bytes:
        nonlocal touched
        if not touched:
            touched = True
            os.utime(path, (0, 10**9))
        return os.pread(fd, length, offset)

    touched = False
    done = back_up(path, to=tmp_path / "out", format="tar", read=touch, threads=1)
    judge_outcome(done)
    assert touched
    assert (done.errors, done.skipped) == ({}, {str(path): ATTRIBUTES})
    assert str(path) in done.report.to_text()
    assert done.report.files.skipped == 0
    assert done.report.lost == {LARGE_ATTRIBUTES: 1}
    assert done.report.files.new == done.report.files.total == 1
    assert "extended attributes of 1 file, too large for a tar header" in done.report.to_text()
    with done.opened_tar() as archive:
        headers = archive.getmember("f").pax_headers
    assert headers["SCHILY.xattr.user.small"] == "kept"
    assert done.contents["f"] == prose(size)


@pytest.mark.needs_root
def test_devices_have_their_numbers(tmp_path: Path) -> None:
    """(case 33)"""
    src = tmp_path / "src"
    src.mkdir()
    os.mknod(src / "char", 0o640 | stat.S_IFCHR, os.makedev(5, 300))
    os.mknod(src / "block", 0o600 | stat.S_IFBLK, os.makedev(259, 70_000))
    done = back_up(src, to=tmp_path / "out", format="tar")
    judge_outcome(done)
    assert done.report.files.new == 2
    assert done.records["src/char"].device == (5, 300)
    assert done.records["src/block"].device == (259, 70_000)
    with done.opened_tar() as archive:
        char, block = archive.getmember("src/char"), archive.getmember("src/block")
    assert (char.ischr(), char.devmajor, char.devminor, char.mode) == (True, 5, 300, 0o640)
    assert (block.isblk(), block.devmajor, block.devminor) == (True, 259, 70_000)


@pytest.mark.needs_root
def test_owners_have_numbers_and_the_names_they_have_here(tmp_path: Path) -> None:
    """Also where there is no such name; the largest number fits (case 21)."""
    (tmp_path / "src").mkdir()
    for uid, gid in ((0, 0), (1, 1), (12_345, 4_000_000_000), (2_097_152, 2_097_151)):
        path = tmp_path / f"src/{uid}"
        path.touch()
        os.chown(path, uid, gid)
    done = back_up(tmp_path / "src", to=tmp_path / "out", format="tar.gz")
    judge_outcome(done)
    with done.opened_tar() as archive:
        found = {m.name: (m.uid, m.gid, m.uname, m.gname) for m in archive.getmembers()}
    assert found["src/0"] == (0, 0, "root", "root")
    assert found["src/1"][:3] == (1, 1, "daemon")
    assert found["src/12345"] == (12_345, 4_000_000_000, "", "")
    assert found["src/2097152"] == (2_097_152, 2_097_151, "", "")


@pytest.mark.parametrize("kind", TARS)
def test_a_stream_reader_of_python_sees_all_members(src: Path, tmp_path: Path, kind: str) -> None:
    """From a pipe; gzip as one member."""
    done = back_up(src, to=tmp_path / "out", format=kind, chunk_size=3)
    if kind == "tar.gz":
        stream, mode = io.BytesIO(done.path.read_bytes()), "r|gz"
    else:
        stream, mode = io.BytesIO(done.tar), "r|"
    with tarfile.open(fileobj=stream, mode=mode, errors="surrogateescape") as archive:  # type: ignore[call-overload]
        names = [member.name for member in archive]
    assert names == [name.rstrip("/") for name in done.contents] + [MANIFEST]


def path_of(target: bytes | int) -> bytes:
    """Give the path of what attributes are read of."""
    return os.readlink(b"/proc/self/fd/%d" % target) if isinstance(target, int) else target


@pytest.mark.parametrize("size", [10, 30_000, 3 * PART])
def test_a_file_without_its_attributes_that_changed_too_is_one_problem(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(prose(size))

    def fail(_target: bytes | int) -> dict[bytes, bytes]:
        raise SourceError("input/output error", IO_ERROR)

    def touch(fd: int, length: int, offset: int) -> bytes:
        data = os.pread(fd, length, offset)
        os.utime(path, ns=(0, os.fstat(fd).st_mtime_ns + 10**9))
        return data

    monkeypatch.setattr("pybak.backup.tar_entries.read_attributes", fail)
    monkeypatch.setattr(
        compress_module.compress_batch, "__kwdefaults__",
        compress_module.compress_batch.__kwdefaults__ | {"read": touch},
    )  # fmt: skip
    done = back_up(path, to=tmp_path / "out", format="tar", read=touch, threads=1)
    (problem,) = done.report.errors
    assert problem.code == CHANGED
    assert problem.message.endswith("; stored without its extended attributes: input/output error")
    files = done.report.files
    assert (files.new, files.failed) == (0, 1)


@pytest.mark.parametrize("size", [30_000, 3 * PART])
def test_a_file_that_could_not_be_had_has_no_note_on_its_attributes(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(prose(size))

    def fail(_target: bytes | int) -> dict[bytes, bytes]:
        raise SourceError("permission denied", UNREADABLE)

    monkeypatch.setattr("pybak.backup.tar_entries.read_attributes", fail)
    done = back_up(
        path, to=tmp_path / "out", format="tar", read=Script(path, "E" * 4 + "r"), threads=1
    )
    (problem,) = done.report.errors
    assert (problem.code, done.contents) == (IO_ERROR, {})
    assert "attributes" not in problem.message


@pytest.mark.parametrize("size", [10, 30_000, 3 * PART])
def test_attributes_are_those_of_the_file_that_was_opened(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(prose(size))
    asked: list[bytes | int] = []

    def look(target: bytes | int) -> dict[bytes, bytes]:
        asked.append(target)
        return {}

    monkeypatch.setattr("pybak.backup.tar_entries.read_attributes", look)
    back_up(path, to=tmp_path / "out", format="tar")
    assert [type(target) for target in asked] == [int]
