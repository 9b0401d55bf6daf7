"""Pack one part of a large file into a segment of a tar archive.

The first part starts with the file's header, the last one ends with its padding; whatever becomes
of the file meanwhile, the parts are as long as that header says.
"""

from __future__ import annotations

import hashlib
import os

from pybak.backup.batches import Batch
from pybak.backup.open_entry import open_entry
from pybak.backup.pack_tar import piece_writer
from pybak.backup.packing import Work, check_name, member_meta
from pybak.backup.read_source import look_again, state_of
from pybak.backup.segments import PartResult, SegmentIndex
from pybak.backup.tar_content import exactly
from pybak.backup.tar_entries import LARGE_ATTRIBUTES, NO_ATTRIBUTES, attributes_of, file_header
from pybak.errors import SourceError
from pybak.formats.tar_records import padding, sparse_map_block
from pybak.problems import Problem, pack_problems


def pack_tar_part(batch: Batch, work: Work) -> SegmentIndex:
    """Pack one part of a large file; the first one begins with the header, the last one pads.

    Every part has the planned length, so that the header holds whatever becomes of the file.
    """
    (entry,) = batch.entries
    part = batch.part
    assert part is not None
    root = work.job.roots[entry.root]
    path, name = root.disk_path(entry.path), root.member_name(entry.path)
    stream = piece_writer(work)
    found: list[Problem] = []
    result = None
    sha, got, head_size = hashlib.sha256(), 0, 0
    attributes = NO_ATTRIBUTES
    try:
        check_name(name)
        fd, before = open_entry(root, entry)
        try:
            meta = member_meta(entry, before)
            if part.number == 0:
                attributes = attributes_of(fd)
                stream.add(file_header(name, meta, entry.size, attributes.kept, part.data_map))
                head_size = stream.plain
                if part.data_map is not None:
                    stream.add(sparse_map_block(part.data_map, entry.size))
            for block in exactly(fd, part.runs, work.read, stream.space):
                sha.update(block.data)
                stream.grow(len(block.data))
                got += block.got
                work.advance(0, len(block.data), path)
                work.stop_if_asked()
            after = look_again(fd)
        finally:
            os.close(fd)
        if part.number == part.count - 1:
            stream.add(padding(part.total))
        stream.end()
        result = PartResult(
            part.length, work.out.size, 0, sha.hexdigest(), state_of(before), state_of(after),
            meta, before.st_dev, head_size, part.data_map,
        )  # fmt: skip
        if note := attributes.note(path):
            found.append(note)
    except SourceError as error:
        found.append(Problem(os.fsdecode(path), error.code, str(error)))
    if part.number == part.count - 1:
        work.advance(1, 0, path)
    return SegmentIndex(
        segment=work.out.name, size=work.out.size, sha256=work.out.sha256(), bytes_read=got,
        packed_problems=pack_problems(found), part=result, pieces=stream.pieces,
        lost={LARGE_ATTRIBUTES: 1} if attributes.is_cut else {},
    )  # fmt: skip
