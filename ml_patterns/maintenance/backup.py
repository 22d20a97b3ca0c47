"""A backup: operational database, warehouse and artifacts of one instant, in one folder.

Belongs here: the order of the copies, the manifest. Does not: putting it back (`restore.py`).

While the warehouse is held, no run can commit anything to it; the operational database is copied
within that time. So a backup is what a power cut at that instant would have left, from which every
pipeline goes on by itself. Artifacts never change and are written before anything refers to them:
they are copied last, without holding anybody up.
"""

import hashlib
import shutil
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from ml_patterns.base import Clock, Settings, utc_now
from ml_patterns.errors import ArtifactError, UserError
from ml_patterns.installation import Installation
from ml_patterns.maintenance.contents import StateContents, warehouse_contents
from ml_patterns.maintenance.state_copy import KINDS, Snapshot, kind_of, save
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.sql import literal, quoted
from ml_patterns.storage.warehouse import Warehouse

MANIFEST = "manifest.json"
WAREHOUSE = "warehouse.duckdb"
ARTIFACTS = "artifacts"


class Manifest(Settings):
    """What a backup holds; written last, so that a folder without one is no backup.

    Attributes:
        format: of the folder.
        state: what the operational database held.
        warehouse: rows per table; None: there was no warehouse yet.
        artifacts: addresses of the copied artifacts.
        missing: addresses that were referred to and not there, or altered.
        files: SHA-256 by name.
    """

    format: Literal[1] = 1
    made_at: datetime
    ml_patterns: str
    kind: Literal["sqlite", "postgresql"]
    state: StateContents
    warehouse: dict[str, int] | None
    artifacts: tuple[str, ...]
    missing: tuple[str, ...] = ()
    files: dict[str, str]


def back_up(installation: Installation, folder: Path, clock: Clock = utc_now) -> Manifest:
    """Copies everything that an installation keeps into an empty folder.

    Raises:
        UserError: the folder is not empty, or there is nothing to copy.
        WarehouseBusyError: the warehouse was never free.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; name a new one for each backup")
    kind = kind_of(installation.state_url)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _written(installation, folder, kind, clock())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # nobody shall take half a backup for one
        raise


def hash_of(path: Path) -> str:
    """SHA-256 of a file (hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _written(installation: Installation, folder: Path, kind: str, made_at: datetime) -> Manifest:
    warehouse, snapshot = _databases(installation, folder)
    copied, missing = _artifacts(installation, folder, snapshot.artifacts)
    names = [KINDS[kind], *([] if warehouse is None else [WAREHOUSE])]
    manifest = Manifest.model_validate(
        {
            "made_at": made_at,
            "ml_patterns": version("ml-patterns"),
            "kind": kind,
            "state": snapshot.contents,
            "warehouse": warehouse,
            "artifacts": copied,
            "missing": missing,
            "files": {name: hash_of(folder / name) for name in names},
        }
    )
    partial = folder / f".{MANIFEST}"
    partial.write_text(manifest.model_dump_json(indent=2))
    partial.rename(folder / MANIFEST)
    return manifest


def _databases(installation: Installation, folder: Path) -> tuple[dict[str, int] | None, Snapshot]:
    """Copies both at one instant; the rows of the warehouse's tables, and the state's snapshot."""
    state = folder / KINDS[kind_of(installation.state_url)]
    if not installation.warehouse.exists():
        return None, save(installation.state_url, state)
    with Warehouse(installation.warehouse).connect(read_only=True) as connection:
        snapshot = save(installation.state_url, state)
        source = connection.execute("SELECT current_database()").fetchone()
        assert source
        connection.execute(f"ATTACH {literal(str(folder / WAREHOUSE))} AS copied (READ_WRITE)")
        connection.execute(f"COPY FROM DATABASE {quoted(source[0])} TO copied")
        rows = warehouse_contents(connection, "copied")
        connection.execute("DETACH copied")
    return rows, snapshot


def _artifacts(
    installation: Installation, folder: Path, addresses: list[str]
) -> tuple[list[str], list[str]]:
    """Copies artifacts; which were copied, and which are missing or altered."""
    here, there = ArtifactStore(installation.artifacts), ArtifactStore(str(folder / ARTIFACTS))
    copied, missing = [], []
    for address in addresses:
        try:
            there.copy_from(here, address)
        except ArtifactError:
            missing.append(address)
        else:
            copied.append(address)
    return copied, missing
