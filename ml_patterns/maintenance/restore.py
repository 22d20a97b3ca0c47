"""Putting a backup back.

Belongs here: the checks before anything is written, the order, the comparison afterwards. Does not:
making the backup (`backup.py`).

Artifacts come first, so that the state never refers to one that is missing; the warehouse is moved
into place last. Nothing is written over: each target is empty, or the restore does not begin.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from ml_patterns.errors import ArtifactError, UserError
from ml_patterns.incremental import audit
from ml_patterns.installation import Installation
from ml_patterns.maintenance.backup import ARTIFACTS, MANIFEST, WAREHOUSE, Manifest, hash_of
from ml_patterns.maintenance.contents import warehouse_contents
from ml_patterns.maintenance.state_copy import KINDS, kind_of, load, look, refuse_unless_empty
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage import schema
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.warehouse import Warehouse


def restore(installation: Installation, folder: Path) -> Manifest:
    """Makes an empty installation what a backup says, and compares the two.

    Raises:
        UserError: the backup is unfinished, damaged or of another kind, a target is not empty, or
            what was restored differs from the backup.
    """
    manifest = verified(folder)
    _refuse_unless_fitting(installation, manifest)
    store, kept = ArtifactStore(installation.artifacts), ArtifactStore(str(folder / ARTIFACTS))
    for address in manifest.artifacts:
        store.copy_from(kept, address)
    moved = _beside(installation.warehouse)
    if manifest.warehouse is not None:
        installation.warehouse.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / WAREHOUSE, moved)
    load(folder / KINDS[manifest.kind], installation.state_url)
    if manifest.warehouse is not None:
        moved.replace(installation.warehouse)
    _compare(installation, manifest)
    engine_for(installation.state_url)  # brings an older schema up to date
    return manifest


def check_ledgers(
    installation: Installation, pipelines: Iterable[PipelineSettings]
) -> dict[str, bool]:
    """Whether each pipeline's tables hold the rows that its ledger accounts for.

    A pipeline that has no ledger in the warehouse is left out.
    """
    if not installation.warehouse.exists():
        return {}
    with Warehouse(installation.warehouse).connect(read_only=True) as connection:
        found = {each.name: audit.data_checks(connection, each) for each in pipelines}
    return {name: all(checks.values()) for name, checks in found.items() if checks}


def verified(folder: Path) -> Manifest:
    """The manifest of a backup of which every byte is what it was.

    Raises:
        UserError: names the file that is missing or altered.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} has no {MANIFEST}: no backup, or one that was not finished; take another"
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise UserError(
            f"{folder / MANIFEST} is not of a backup that this version reads; take another one"
        ) from error
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file() or hash_of(path) != expected:
            raise UserError(f"{path} is missing or altered; restore from another backup")
    store = ArtifactStore(str(folder / ARTIFACTS))
    for address in manifest.artifacts:
        try:
            store.texts(address)
        except ArtifactError as error:
            raise UserError(f"{error}; restore from another backup") from error
    return manifest


def _refuse_unless_fitting(installation: Installation, manifest: Manifest) -> None:
    kind = kind_of(installation.state_url)
    if kind != manifest.kind:
        raise UserError(
            f"the backup holds a database of {manifest.kind}, but ML_PATTERNS_STATE_URL names "
            f"{kind}; set it to an empty {manifest.kind}"
        )
    if int(manifest.state.revision) > int(schema.HEAD):
        raise UserError(
            f"the backup has schema {manifest.state.revision}, but this version of ml-patterns "
            f"knows only up to {schema.HEAD}; install {manifest.ml_patterns} or newer"
        )
    refuse_unless_empty(installation.state_url)
    log = installation.warehouse.with_name(f"{installation.warehouse.name}.wal")
    if not installation.warehouse.exists():
        if log.exists():
            raise UserError(f"{log} is left of another warehouse; move it away")
    else:
        # Not read-only: closing it then empties the log beside it, which is of the old file.
        with Warehouse(installation.warehouse).connect() as connection:
            full = [name for name, rows in warehouse_contents(connection).items() if rows]
        if full:
            raise UserError(
                f"the warehouse {installation.warehouse} is not empty ({full[0]} has rows); move "
                "it away or set ML_PATTERNS_WAREHOUSE to another path"
            )


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.restoring")


def _compare(installation: Installation, manifest: Manifest) -> None:
    """Holds what was restored against the backup.

    Raises:
        UserError: names what differs.
    """
    state = look(installation.state_url)
    differing = [
        name
        for name in sorted({*state.contents.rows, *manifest.state.rows})
        if state.contents.rows.get(name) != manifest.state.rows.get(name)
    ]
    if state.contents.audit != manifest.state.audit:
        differing.append("the audit log")
    if set(state.artifacts) != {*manifest.artifacts, *manifest.missing}:
        differing.append("the artifacts that rows refer to")
    if manifest.warehouse is not None:
        with Warehouse(installation.warehouse).connect(read_only=True) as connection:
            if warehouse_contents(connection) != manifest.warehouse:
                differing.append("the tables of the warehouse")
    if differing:
        raise UserError(
            f"what was restored differs from the backup in {', '.join(differing)}; empty the "
            "targets and restore again"
        )
