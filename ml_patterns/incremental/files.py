"""Landed files: finding them, here or in another store.

Belongs here: listing, and what tells two contents of a file apart. Does not: reading them
(`sources.py`), remembering which was seen (`ledger.py`).
"""

import fnmatch
import os
import re
from collections.abc import Mapping
from datetime import datetime
from glob import iglob
from operator import attrgetter
from stat import S_ISREG
from typing import NamedTuple

import duckdb
import fsspec


class LandedFile(NamedTuple):  # a listing makes one of each file in the history: it is cheap
    """A file as the listing shows it; a changed size or tag is a new revision.

    Attributes:
        tag: the store's ETag, or modification time and inode of a local file.
    """

    path: str
    size: int
    tag: str


def list_files(pattern: str) -> list[LandedFile]:
    """Every file that a glob matches, by path. Hidden files are still being written: left out."""
    filesystem, path = fsspec.core.url_to_fs(pattern)
    if _is_local(filesystem):
        return _local(path)
    filesystem.invalidate_cache()  # stores remember their listings, also within a daemon
    found = filesystem.glob(path, detail=True)
    return [
        _landed(filesystem, name, info)
        for name, info in sorted(found.items())
        if info["type"] == "file" and not _is_hidden(name)
    ]


def look(path: str) -> LandedFile | None:
    """A file as it lies there now; None where there is none."""
    filesystem, name = fsspec.core.url_to_fs(path)
    try:
        if _is_local(filesystem):
            return _described(name, os.stat(name))  # noqa: PTH116 - as `_local` sees it
        return _landed(filesystem, name, filesystem.info(name, refresh=True))
    except FileNotFoundError:
        return None


def _local(pattern: str) -> list[LandedFile]:
    """Asked of the system itself, folder by folder.

    A listing looks at every file of a history: `glob` takes half as long again, fsspec three times.
    """
    parent, name = os.path.split(pattern)
    if name == "**":
        parent, name = pattern, "*"
    matches = re.compile(fnmatch.translate(name)).match
    found = []
    for folder in iglob(os.path.join(parent, ""), recursive=True):  # noqa: PTH118, PTH207
        with os.scandir(folder) as entries:
            for entry in entries:
                if matches(entry.name) and entry.name[0] not in "._":
                    try:
                        file = _described(entry.path, entry.stat())
                    except FileNotFoundError:  # gone since, or a link to nothing
                        continue
                    if file:
                        found.append(file)
    return sorted(found, key=attrgetter("path"))


def _described(path: str, status: os.stat_result) -> LandedFile | None:
    if not S_ISREG(status.st_mode):
        return None
    return LandedFile(path, status.st_size, f"{status.st_mtime_ns}-{status.st_ino}")


def _landed(
    filesystem: fsspec.AbstractFileSystem, name: str, info: Mapping[str, object]
) -> LandedFile:
    return LandedFile(
        path=filesystem.unstrip_protocol(name), size=int(str(info["size"])), tag=_tag(info)
    )


def _is_hidden(name: str) -> bool:
    return name.rsplit("/", 1)[-1].startswith((".", "_"))


def _is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    return "file" in _protocols(filesystem)


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _tag(info: Mapping[str, object]) -> str:
    """What tells two contents of a file apart; every store has its own name for it."""
    for key in ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "generation"):
        if info.get(key):
            return str(info[key])
    changed = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified")
    times = [info[key] for key in changed if info.get(key)] or [info.get("created")]
    texts = [str(t.timestamp() if isinstance(t, datetime) else t) for t in times]
    return "-".join([*texts, str(info.get("ino", ""))])


def attach_filesystem(connection: duckdb.DuckDBPyConnection, pattern: str) -> None:
    """Lets DuckDB read through fsspec where the files are not local."""
    filesystem, _ = fsspec.core.url_to_fs(pattern)
    names = _protocols(filesystem)
    if not _is_local(filesystem) and not any(connection.filesystem_is_registered(n) for n in names):
        connection.register_filesystem(filesystem)
