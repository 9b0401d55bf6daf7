"""`GET /archives`, one of them, its members, and the content of one file."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, BinaryIO, Final
from urllib.parse import quote, unquote_to_bytes

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.convertors import Convertor, register_url_convertor

from pybak.api import examples
from pybak.api.auth.guard import GuardedRoute, caller_of, protected
from pybak.api.auth.scopes import READ, RESTORE, Caller
from pybak.api.context import Context, context_of
from pybak.api.downloads import disposition, pieces
from pybak.api.paging import LIMIT, Cursor, Limit, Text
from pybak.api.problems import Problem, not_found, too_many
from pybak.api.streams import Streamed
from pybak.api.views import (
    ArchivePage,
    MemberItem,
    MemberPage,
    answer,
    items,
    problems,
    told,
)
from pybak.display import escape, printable
from pybak.overview.facts import ArchiveDetails, Member

_logger = logging.getLogger("pybak.api")
router = APIRouter(tags=["archives"], route_class=GuardedRoute)
_FILES: Final = ("file", "hardlink")
_BUSY_SECONDS: Final = 5
_SAFE: Final = {
    "Accept-Ranges": "none",
    # Were it shown after all, nothing in it may run.
    "Content-Security-Policy": "default-src 'none'; sandbox",
}


class _MemberConvertor(Convertor[str]):
    """A path of all that is left, line ends too: they may be in names."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("member", _MemberConvertor())

ArchiveNumber = Annotated[
    int, Path(ge=1, le=2**31 - 1, description="The number of an archive, as lists have it.")
]


@router.get(
    "/archives", operation_id="listArchives", summary="Archives, the newest first",
    responses={200: told(ArchivePage, "Some archives.", examples.ARCHIVES)} | problems(),
    **protected(READ),
)  # fmt: skip
async def list_archives(
    request: Request,
    job: Annotated[Text | None, Query(max_length=4096)] = None,
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Response:
    """List the archives in the catalog, of all jobs or of one."""
    context = context_of(request)
    page = await context.look(
        lambda overview: overview.archives(job=job, cursor=cursor, limit=limit)
    )
    return answer(ArchivePage(**items(page)))


@router.get(
    "/archives/{archive_id}", operation_id="getArchive", summary="One archive",
    responses={200: told(ArchiveDetails, "The archive.", examples.ARCHIVE)} | problems(404),
    **protected(READ),
)  # fmt: skip
async def get_archive(request: Request, archive_id: ArchiveNumber) -> Response:
    """Tell of an archive's files, its copies and its last checks."""
    context = context_of(request)
    return answer(await context.look(lambda overview: overview.archive(archive_id)))


@router.get(
    "/archives/{archive_id}/members", operation_id="listMembers", summary="What an archive holds",
    responses={200: told(MemberPage, "Some members.", examples.MEMBERS)} | problems(404),
    **protected(READ),
)  # fmt: skip
async def list_members(
    request: Request,
    archive_id: ArchiveNumber,
    match: Annotated[
        Text | None,
        Query(max_length=1024, description="A part of the name, or a pattern.", examples=["*.pdf"]),
    ] = None,
    prefix: Annotated[Text | None, Query(max_length=4096, examples=["docs/letters/"])] = None,
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Response:
    """List the members of an archive by name, with links to the contents of files."""
    context = context_of(request)
    below = None if prefix is None else os.fsencode(prefix)
    page = await context.look(
        lambda overview: overview.members(
            archive_id, match=match, prefix=below, cursor=cursor, limit=limit
        )
    )
    shown = tuple(_item(archive_id, member) for member in page.items)
    return answer(MemberPage(items=shown, next=page.next))


def _item(archive_id: int, member: Member) -> MemberItem:
    link = None
    if member.type in _FILES:
        link = f"/archives/{archive_id}/members/{quote(os.fsencode(member.path), safe='/')}"
    return MemberItem(
        path=member.path, name=member.name, type=member.type, size=member.size,
        mtime=member.mtime, mode=member.mode, sha256=member.sha256, download=link,
    )  # fmt: skip


@router.get(
    "/archives/{archive_id}/members/{path:member}", operation_id="downloadMember",
    summary="The content of one file", **protected(RESTORE),
    responses={
        200: {
            "description": "The content. A connection that ends early means a damaged archive.",
            "content": {"application/octet-stream": {"schema": {"type": "string"}}},
        }
    } | problems(404, 409, 429),
    response_class=StreamingResponse,
)  # fmt: skip
async def download(
    request: Request,
    caller: Annotated[Caller, Depends(caller_of)],
    archive_id: ArchiveNumber,
    path: Annotated[  # noqa: ARG001 - the bytes themselves are taken, for text loses some
        str, Path(description="The member's name, percent-encoded as bytes.")
    ],
) -> Response:
    """Give one file as the archive has it, checked while it is read."""
    context = context_of(request)
    member = _member_name(request, archive_id)
    found = await context.serve(context.files.find, archive_id, member)
    if context.downloads >= context.settings.streams:
        raise too_many(_BUSY_SECONDS, "downloads at once")

    def send(out: BinaryIO) -> None:
        context.files.send(archive_id, member, out)

    content = _counted(context, pieces(send))
    try:
        first = await anext(content, b"")  # what can't be opened says so before there is an answer
    except BaseException:
        await content.aclose()
        raise
    _logger.info("%s takes %s from archive %d", escape(caller.name), printable(member), archive_id)
    headers = {"Content-Disposition": disposition(found.path), "Content-Length": str(found.size)}
    return Streamed(
        _joined(first, content, found.size),
        content,
        media_type="application/octet-stream",
        headers=headers | _SAFE,
    )


def _member_name(request: Request, archive_id: int) -> bytes:
    """Give the name as bytes: what is decoded as text may have lost some."""
    raw: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    _, found, rest = raw.partition(b"?")[0].partition(b"/members/")
    if not found or not rest:
        raise not_found(f"archive {archive_id}")
    name = unquote_to_bytes(rest)
    if b"\0" in name:
        raise Problem(404, "not-found", "no member has such a name")
    return name


async def _counted(
    context: Context, content: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    context.downloads += 1
    try:
        async with aclosing(content) as chunks:
            async for chunk in chunks:
                yield chunk
    finally:
        context.downloads -= 1


async def _joined(
    first: bytes, content: AsyncGenerator[bytes, None], size_bytes: int
) -> AsyncGenerator[bytes, None]:
    """Yield all; an end at the wrong place breaks the connection, so that nobody takes it."""
    async with aclosing(content) as chunks:
        sent = len(first)
        yield first
        async for chunk in chunks:
            sent += len(chunk)
            if sent > size_bytes:
                break
            yield chunk
        if sent != size_bytes:
            raise RuntimeError("the member is not as long as the catalog says")
