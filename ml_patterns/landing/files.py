"""The files that a table landed in, and the cursor that they carry.

Belongs here: naming, writing and finding them. Does not: reading the table (`table.py`).

A landed file is whole or not there, and its metadata say how far the table was read: data and
cursor cannot drift apart, whatever is killed, and a backup of the one is a backup of the other.
"""

import json
import os
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ml_patterns.errors import ConflictError, SettingsError, SourceFileError, UserError
from ml_patterns.landing.cursor import Cursor
from ml_patterns.landing.settings import SourceSettings
from ml_patterns.settings import PipelineSettings

_KEY = b"ml_patterns.source"
_OLD = 3600  # seconds


@dataclass(frozen=True)
class Landed:
    """A file that landed.

    Attributes:
        number: files are numbered from 1 on.
        high: the greatest cursor that any file had brought by then.
        columns: as they were written.
    """

    path: Path
    number: int
    high: Cursor
    columns: pa.Schema


class LandingFolder:
    """The folder that a pipeline's table lands in."""

    def __init__(self, settings: PipelineSettings, source: SourceSettings) -> None:
        """Finds the folder.

        Raises:
            SettingsError: `events.path` is not a glob of Parquet files in a local folder.
        """
        glob = settings.event_glob
        folder, pattern = os.path.split(glob)
        self.folder, self._name, self._source = Path(folder), settings.name, source
        if "://" in glob or any(sign in folder for sign in "*?["):
            raise SettingsError(
                f"events.path {settings.events.path} of pipeline {settings.name} is no glob in one "
                "local folder, and source lands files in one; write landing/NAME/*.parquet"
            )
        if not fnmatch(self._file(1).name, pattern):
            raise SettingsError(
                f"events.path {settings.events.path} of pipeline {settings.name} would not match "
                f"{self._file(1).name}, the files that source lands; write landing/NAME/*.parquet"
            )

    def _file(self, number: int) -> Path:
        return self.folder / f"{self._name}-{number:09d}.parquet"

    def newest(self) -> Landed | None:
        """The file that landed last; None before the first.

        Raises:
            SourceFileError: it is unreadable, or it came from another table or cursor.
        """
        pattern = re.compile(rf"{re.escape(self._name)}-(\d{{9,}})\.parquet")
        names = [p.name for p in self.folder.iterdir()] if self.folder.is_dir() else []
        numbers = [int(found[1]) for name in names if (found := pattern.fullmatch(name))]
        return self._read(max(numbers)) if numbers else None

    def since(self, newest: Landed, bound: Cursor) -> list[Landed]:
        """The files that may hold a row from a cursor on, the newest first."""
        found, number = [newest], newest.number - 1
        # `high` never falls, so the first file that ends before the bound ends the search.
        while number and self._file(number).exists():
            landed = self._read(number)
            if landed.high.before(bound):
                break
            found.append(landed)
            number -= 1
        return found

    def _read(self, number: int) -> Landed:
        path = self._file(number)
        try:
            schema = pq.read_schema(path)
            said = json.loads((schema.metadata or {})[_KEY])
            high = Cursor.read(said["high"])
        except (pa.ArrowInvalid, KeyError, ValueError) as error:
            raise SourceFileError(
                f"{path} does not say how far {self._source.told} was read; move it away, and "
                "the rows from the file before it on land again"
            ) from error
        wanted = [self._source.table, self._source.query, self._source.cursor]
        if said["source"] != wanted:
            old = said["source"][0] or "a query"
            raise SourceFileError(
                f"{path} landed from {old} by {said['source'][2]}, and source says "
                f"{self._source.told} by {self._source.cursor} now; let events.path name a new "
                "folder"
            )
        return Landed(path, number, high, schema)

    def write(self, rows: pa.Table, number: int, high: Cursor) -> Path:
        """Lands rows as the file of a number: whole, or not at all.

        Raises:
            ConflictError: another process landed that file meanwhile; nothing was written.
            UserError: the folder cannot be written to.
        """
        path = self._file(number)
        temporary = self.folder / f".{path.name}.{os.getpid()}"  # hidden files are not listed
        source = [self._source.table, self._source.query, self._source.cursor]
        said = json.dumps({"source": source, "high": high.written()})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be made: {error.strerror}") from error
        try:
            with temporary.open("wb") as sink:
                pq.write_table(rows.replace_schema_metadata({_KEY: said}), sink)
                sink.flush()
                os.fsync(sink.fileno())
            os.link(temporary, path)  # unlike a rename, it never replaces
        except FileExistsError as error:
            raise ConflictError(
                f"another process lands {self._source.told} too and was first with {path.name}; "
                "nothing is lost: what is left lands the next time"
            ) from error
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}); nothing has landed there"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def clear(self, now: float) -> None:
        """Removes what killed processes left half-written an hour ago or longer."""
        for path in self.folder.glob(f".{self._name}-*.parquet.*"):
            if path.stat().st_mtime < now - _OLD:
                path.unlink(missing_ok=True)
