"""Extended attributes and ACLs: judged by getfattr, getfacl, and what tar programs write."""

from __future__ import annotations

import errno
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attributed import acl_text, attributes_by_getfattr, folder_with_attributes, set_acl
from hypothesis import given
from hypothesis import strategies as st

from pybak import attributes
from pybak.attributes import (
    ACL_ACCESS,
    ACL_DEFAULT,
    CAPABILITY,
    acl_from_text,
    acl_to_text,
    is_kept,
    needs_privilege,
    path_in,
    read_attributes,
    set_attributes,
)
from pybak.errors import ArchiveError, SourceError
from pybak.problems import IO_ERROR, UNREADABLE, VANISHED

pytestmark = pytest.mark.needs_tool("getfattr", "setfacl", "getfacl")

CAPABLE = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep
VALUES = {
    b"user.a": b"1",
    b"user.empty": b"",
    b"user.raw \xff=%": bytes(range(256)),
    b"user." + b"n" * 250: b"long",
}
ENTRIES = ("u:12345:r-x", "g:54321:rwx", "u:7:---")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with folder_with_attributes(tmp_path) as folder:
        yield folder


@pytest.fixture
def file(place: Path) -> bytes:
    path = place / "file"
    path.write_bytes(b"content")
    return os.fsencode(path)


def test_a_file_without_attributes_has_none(file: bytes) -> None:
    assert read_attributes(file) == {}


def test_attributes_are_read_and_set(file: bytes, place: Path) -> None:
    """By path and by descriptor; an independent program sees them equal (cases 23, 69)."""
    for name, value in VALUES.items():
        os.setxattr(file, name, value)
    assert read_attributes(file) == VALUES
    fd = os.open(file, os.O_RDONLY)
    assert read_attributes(fd) == VALUES
    os.close(fd)
    by_path, by_fd = place / "by path", place / "by fd"
    by_path.touch()
    assert set_attributes(os.fsencode(by_path), VALUES) == []
    fd = os.open(by_fd, os.O_RDWR | os.O_CREAT)
    assert set_attributes(fd, VALUES) == []
    os.close(fd)
    want = attributes_by_getfattr(file)
    assert want.count("\n") == 3
    assert attributes_by_getfattr(by_path) == attributes_by_getfattr(by_fd) == want


def test_acls_are_read_and_set(place: Path) -> None:
    """Access and default ones, through their text (cases 24, 69)."""
    source, target = place / "source", place / "target"
    source.mkdir()
    target.mkdir()
    set_acl(source, *ENTRIES)
    set_acl(source, "u:99:r--", "g::r-x", default=True)
    found = read_attributes(os.fsencode(source))
    assert set(found) == {ACL_ACCESS, ACL_DEFAULT}
    again = {name: acl_from_text(acl_to_text(acl)) for name, acl in found.items()}
    assert again == found
    assert set_attributes(os.fsencode(target), again) == []
    assert acl_text(target) == acl_text(source)
    assert "default:user:99:r--" in acl_text(target)


def test_the_mode_set_afterwards_fits_the_acl(place: Path) -> None:
    """Its group bits are the mask (case 24)."""
    source, target = place / "source", place / "target"
    source.touch()
    target.touch()
    set_acl(source, *ENTRIES, "m::r-x")
    set_attributes(os.fsencode(target), read_attributes(os.fsencode(source)))
    target.chmod(source.stat().st_mode & 0o7777)
    assert acl_text(target) == acl_text(source)


def test_what_the_target_has_and_the_archive_lacks_goes_if_asked(place: Path) -> None:
    """An ACL that a folder hands on, for one (case 23)."""
    set_acl(place, "u:12345:rwx", default=True)
    path = place / "inherits"
    path.touch()
    os.setxattr(path, "user.old", b"1")
    os.setxattr(path, "user.both", b"1")
    assert "user:12345" in acl_text(path)
    assert set_attributes(os.fsencode(path), {b"user.both": b"2"}) == []
    assert set(read_attributes(os.fsencode(path))) == {ACL_ACCESS, b"user.old", b"user.both"}
    fd = os.open(path, os.O_RDWR)
    assert set_attributes(fd, {b"user.both": b"2"}, remove_others=True) == []
    assert read_attributes(fd) == {b"user.both": b"2"}
    os.close(fd)


def test_a_value_that_is_too_large_is_named_and_the_others_are_set(file: bytes) -> None:
    """(case 23)"""
    values = {b"user.large": bytes(65_537), b"user.small": b"1"}
    [(name, error)] = set_attributes(file, values)
    assert name == b"user.large"
    assert error.errno in (errno.E2BIG, errno.ENOSPC, errno.ERANGE)
    assert read_attributes(file) == {b"user.small": b"1"}


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"user.", b"1"), (b"user." + b"n" * 300, b"1"), (b"user.a\0b", b"1"), (ACL_ACCESS, b"junk")],
)
def test_an_attribute_that_no_system_takes_is_named(file: bytes, name: bytes, value: bytes) -> None:
    """(case 23)"""
    [(found, error)] = set_attributes(file, {name: value, b"user.ok": b"1"})
    assert found == name
    assert error.errno
    assert read_attributes(file) == {b"user.ok": b"1"}


def test_a_default_acl_on_a_file_is_named(file: bytes) -> None:
    acl = acl_from_text(b"u::rwx,g::r-x,o::---")
    [(name, _)] = set_attributes(file, {ACL_DEFAULT: acl})
    assert name == ACL_DEFAULT


@pytest.mark.parametrize(
    "name",
    [
        b"security.selinux",
        b"security.ima",
        b"security.SMACK64",
        b"system.nfs4_acl",
        b"system.cifs_acl",
        b"btrfs.compression",
        b"com.apple.quarantine",
        b"users.a",
    ],
)
def test_what_belongs_to_the_machine_is_not_kept(file: bytes, name: bytes) -> None:
    assert not is_kept(name)
    assert set_attributes(file, {name: b"1"}, privileged=True) == []


def test_what_gives_rights_is_left_out_unless_asked_for(file: bytes) -> None:
    values = {CAPABILITY: CAPABLE, b"trusted.overlay.opaque": b"y", b"user.a": b"1"}
    assert [name for name in values if needs_privilege(name)] == [*values][:2]
    assert all(map(is_kept, values))
    assert set_attributes(file, values) == []
    assert read_attributes(file) == {b"user.a": b"1"}


@pytest.mark.needs_root
def test_capabilities_and_trusted_attributes_are_set_by_root_if_asked(file: bytes) -> None:
    """(case 23)"""
    values = {CAPABILITY: CAPABLE, b"trusted.a": b"y"}
    assert set_attributes(file, values, privileged=True) == []
    assert read_attributes(file) == values
    # Others' rights are not taken away by a restore that leaves them out.
    assert set_attributes(file, {}, remove_others=True) == []
    assert read_attributes(file) == values


def test_a_user_who_may_not_is_told_so(file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """(case 23)"""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "setxattr", refuse)
    failed = set_attributes(file, {CAPABILITY: CAPABLE, b"user.a": b"1"}, privileged=True)
    assert [(name, error.errno) for name, error in failed] == [
        (CAPABILITY, errno.EPERM),
        (b"user.a", errno.EPERM),
    ]


def test_a_link_is_not_followed(file: bytes, place: Path) -> None:
    """(cases 26, 79)"""
    os.setxattr(file, "user.a", b"1")
    link = place / "link"
    link.symlink_to(file)
    assert read_attributes(os.fsencode(link)) == {}
    folder_fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for target in (os.fsencode(link), path_in(folder_fd, b"link")):
            [(name, _)] = set_attributes(target, {b"user.b": b"1"})  # links can't have it
            assert name == b"user.b"
            set_attributes(target, {}, remove_others=True)
    finally:
        os.close(folder_fd)
    assert read_attributes(file) == {b"user.a": b"1"}


@pytest.mark.needs_root
def test_a_link_has_attributes_of_its_own(file: bytes, place: Path) -> None:
    """(case 26)"""
    (place / "link").symlink_to("file")
    folder_fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    link = path_in(folder_fd, b"link")
    assert set_attributes(link, {b"trusted.a": b"link"}, privileged=True) == []
    assert read_attributes(link) == {b"trusted.a": b"link"}
    assert read_attributes(file) == {}
    os.close(folder_fd)
    assert "trusted.a=0x6c696e6b" in attributes_by_getfattr(place / "link")


def failing(number: int) -> Any:
    def call(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_attributes_has_none(
    file: bytes, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """(case 23)"""
    monkeypatch.setattr(os, "listxattr", failing(number))
    assert read_attributes(file) == {}
    assert set_attributes(file, {}, remove_others=True) == []


def test_an_attribute_that_vanishes_is_skipped(
    file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 44)"""
    os.setxattr(file, "user.a", b"1")
    monkeypatch.setattr(os, "listxattr", lambda *_, **__: ["user.gone", "user.a"])
    assert read_attributes(file) == {b"user.a": b"1"}


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EIO, IO_ERROR),
        (errno.ESTALE, IO_ERROR),
        (errno.EACCES, UNREADABLE),
        (errno.E2BIG, UNREADABLE),
        (errno.ENOENT, VANISHED),
    ],
)
@pytest.mark.parametrize("call", ["listxattr", "getxattr"])
def test_attributes_that_can_not_be_read_are_an_error_of_the_file(
    file: bytes, monkeypatch: pytest.MonkeyPatch, call: str, number: int, code: str
) -> None:
    """(case 43)"""
    os.setxattr(file, "user.a", b"1")
    monkeypatch.setattr(os, call, failing(number))
    with pytest.raises(SourceError, match=r"^(attribute|vanished).*[a-z]$") as caught:
        read_attributes(file)
    assert caught.value.code == code


def test_a_missing_file_vanished(tmp_path: Path) -> None:
    """(case 44)"""
    with pytest.raises(SourceError) as caught:
        read_attributes(os.fsencode(tmp_path / "none"))
    assert caught.value.code == VANISHED


BASE = "user::rwx,group::r-x,other::---"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (BASE, BASE),
        ("u::rwx\ng::r-x\no::---\n", BASE),
        ("other:---,user::xwr,group::rx", BASE),
        ("# file: a\nuser::rwx # owner\n\tgroup::r-x\t#effective:r--\r\nother::---\n\n", BASE),
        ("default:user::rwx,default:group::r-x,d:o::---", BASE),
        (
            "user::rw-,user:12:r--,group::r--,mask::r--,other::---",
            "user::rw-,user:12:r--,group::r--,mask::r--,other::---",
        ),
        (
            "user::rw-,user:known:r--,group::-w-,other::---",
            "user::rw-,user:5:r--,group::-w-,mask::rw-,other::---",
        ),
        (
            "user::rw-,user:known:r--:77,user:other:r-x:78,group::r--,group:known:r-x:1,m::r,o::",
            "user::rw-,user:5:r--,user:78:r-x,group::r--,group:6:r-x,mask::r--,other::---",
        ),
        (
            "group:9:r--,user::rw-,g:8:-w-,user:3:--x,group::---,user:2:r--,other::---",
            "user::rw-,user:2:r--,user:3:--x,group::---,group:8:-w-,group:9:r--,mask::rwx,other::---",
        ),
        (
            "user::rw-,user:a\\040b:r--,group::r--,mask::r--,other::---",
            "user::rw-,user:11:r--,group::r--,mask::r--,other::---",
        ),
        (
            "u::rw-,user:j\N{LATIN SMALL LETTER O WITH DIAERESIS}rg:r,group::r--,mask::r,other::",
            "user::rw-,user:12:r--,group::r--,mask::r--,other::---",
        ),
    ],
)
def test_texts_of_all_programs_are_understood(text: str, want: str) -> None:
    """(case 24)"""
    users = {"known": 5, "a b": 11, "j\N{LATIN SMALL LETTER O WITH DIAERESIS}rg": 12}
    acl = acl_from_text(text.encode(), find_user=users.get, find_group={"known": 6}.get)
    assert acl_to_text(acl).decode() == want


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"junk",
        b"user::rwx",
        b"user::rwx,group::r-x",
        b"user::rwx,group::r-x,other::---,user:nobody at all:rwx",
        b"user::rwx,group::r-x,other::---,user:\xff:rwx",
        b"user::rwx,group::r-x,other::---,user:4294967295:rwx",
        b"user::rwx,group::r-x,other::---,user:" + b"9" * 5000 + b":rwx",
        b"user::rwx,group::r-x,other::---,user:1:rwx,user:1:r--",
        b"user::rwx,group::r-x,other::-z-",
        b"user::rwx,group::r-x,other:me:---",
        b"user::rwx,group::r-x,other::---,mask:1:rwx",
        b"user::rwx,group::r-x,other::---:1:2",
        b"user::rwx,group::r-x,other::---,root::rwx",
        b"\0\xff,:::",
    ],
)
def test_a_text_that_is_no_acl_is_refused(text: bytes) -> None:
    """(case 24)"""
    with pytest.raises(ArchiveError):
        acl_from_text(text)


@pytest.mark.parametrize(
    "acl",
    [b"", b"\2\0\0\0x", b"\1\0\0\0", b"\2\0\0\0\3\0\0\0\0\0\0\0", b"\2\0\0\0\1\0\x08\0\0\0\0\0"],
)
def test_bytes_that_are_no_acl_are_refused(acl: bytes) -> None:
    with pytest.raises(ArchiveError, match="leave it out"):
        acl_to_text(acl)


IDS = st.integers(0, 2**32 - 2)
BITS = st.integers(0, 7)


@given(BITS, BITS, BITS, st.none() | BITS, st.dictionaries(IDS, BITS), st.dictionaries(IDS, BITS))
def test_an_acl_comes_back_from_its_text(
    owner: int,
    group: int,
    others: int,
    mask: int | None,
    users: dict[int, int],
    groups: dict[int, int],
) -> None:
    """(case 24)"""
    if mask is None and (users or groups):
        mask = 5
    entries = [(1, owner, 2**32 - 1)] + [(2, users[number], number) for number in sorted(users)]
    entries += [(4, group, 2**32 - 1)] + [(8, groups[number], number) for number in sorted(groups)]
    entries += [(16, mask, 2**32 - 1)] if mask is not None else []
    entries += [(32, others, 2**32 - 1)]
    acl = b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + number.to_bytes(4, "little")
        for tag, bits, number in entries
    )
    assert acl_from_text(acl_to_text(acl)) == acl


@given(st.binary(max_size=80) | st.text("ugmo:rwx-,\n#d1", max_size=40).map(str.encode))
def test_any_bytes_are_an_acl_or_an_archive_error(text: bytes) -> None:
    for convert in (acl_from_text, acl_to_text):
        try:
            convert(text)
        except ArchiveError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.needs_tool("tar", "bsdtar")
@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_what_tar_programs_write_is_understood(place: Path, program: str) -> None:
    """With names, which they prefer to numbers (cases 24, 68)."""
    folder = place / "folder"
    folder.mkdir()
    set_acl(folder, "u:nobody:rwx", "u:12345:r--", "g:daemon:r-x")
    set_acl(folder, "u:daemon:rwx", "g:54321:r-x", default=True)
    options = {"tar": ["--acls", "--format=pax"], "bsdtar": ["--acls", "--format=pax"]}[program]
    archive = place / "a.tar"
    command = [program, *options, "-cf", archive, "-C", place, "folder"]
    subprocess.run(command, check=True, capture_output=True)
    with tarfile.open(archive) as opened:
        [member] = opened.getmembers()
    found = {
        ACL_ACCESS: acl_from_text(member.pax_headers["SCHILY.acl.access"].encode()),
        ACL_DEFAULT: acl_from_text(member.pax_headers["SCHILY.acl.default"].encode()),
    }
    assert "nobody" in member.pax_headers["SCHILY.acl.access"]
    assert found == read_attributes(os.fsencode(folder))


def test_a_system_without_these_calls_has_no_attributes(
    file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    import importlib.util

    os.setxattr(file, "user.a", b"1")
    monkeypatch.delattr(os, "listxattr")
    spec = importlib.util.find_spec(attributes.__name__)
    assert spec is not None
    assert spec.loader is not None
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    assert elsewhere.read_attributes(file) == {}
    [(name, error)] = elsewhere.set_attributes(file, {b"user.a": b"2"}, remove_others=True)
    assert (name, error.errno) == (b"user.a", errno.ENOTSUP)
