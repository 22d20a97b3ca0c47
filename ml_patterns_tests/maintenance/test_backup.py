"""Back up, destroy, restore: the same champions, audit log and tables, or no restore at all."""

import multiprocessing
import shutil
from multiprocessing.synchronize import Event
from pathlib import Path

import duckdb
import pytest
import sqlalchemy as sa

from ml_patterns.errors import UserError
from ml_patterns.maintenance.backup import ARTIFACTS, MANIFEST, WAREHOUSE, back_up
from ml_patterns.maintenance.restore import restore, verified
from ml_patterns.maintenance.state_copy import KINDS
from ml_patterns.registry.tables import audit
from ml_patterns.storage import schema
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.maintenance.conftest import House, house_in

Houses = tuple[House, House]


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_restored_is_what_was_backed_up(houses: Houses, tmp_path: Path) -> None:
    here, there = houses
    back_up(here.installation, tmp_path / "backup")
    made = restore(there.installation, tmp_path / "backup")
    assert made.missing == ()
    assert there.registry.audit() == here.registry.audit()
    assert there.registry.champions() == here.registry.champions()
    assert there.registry.generations("shop") == here.registry.generations("shop")
    assert there.registry.reviews() == here.registry.reviews()
    assert there.registry.decisions() == here.registry.decisions()
    for version in here.registry.versions("shop"):
        assert there.store.get(version.artifact) == here.store.get(version.artifact)
    with duckdb.connect(there.installation.warehouse) as connection:
        assert connection.execute("SELECT count(*) FROM shop.both").fetchone() == (100,)
        with pytest.raises(duckdb.ConstraintException):
            connection.execute("INSERT INTO shop.left_side VALUES (0)")


def test_a_restored_installation_goes_on(houses: Houses, tmp_path: Path) -> None:
    """Numbers go on where they were, the audit log still refuses, a rollback still works."""
    here, there = houses
    back_up(here.installation, tmp_path / "backup")
    restore(there.installation, tmp_path / "backup")
    rolled = there.registry.rollback(
        "shop", "eu", to_generation=None, actor="ann", reason="it was better"
    )
    assert (rolled.version, rolled.generation) == (1, 3)
    assert there.deploy("us", 3).number == 3
    with (
        pytest.raises(sa.exc.DBAPIError, match="append-only"),
        engine_for(there.installation.state_url).begin() as connection,
    ):
        connection.execute(sa.delete(audit))


def test_a_command_that_looked_in_before_the_restore_is_in_nobodys_way(
    houses: Houses, tmp_path: Path
) -> None:
    """Any command creates the tables; what is empty may be replaced."""
    here, there = houses
    back_up(here.installation, tmp_path / "backup")
    assert there.registry.champions() == []
    engine_for(there.installation.state_url).dispose()
    there.write(0)
    restore(there.installation, tmp_path / "backup")
    assert there.registry.champions() == here.registry.champions()


def test_nothing_is_written_over(houses: Houses, tmp_path: Path) -> None:
    here, there = houses
    back_up(here.installation, tmp_path / "backup")
    there.train("asia", 1)
    with pytest.raises(UserError, match=r"is not empty \(registry_audit, registry_champions, "):
        restore(there.installation, tmp_path / "backup")
    assert [version.region for version in there.registry.versions("shop")] == ["asia"]
    assert not there.installation.warehouse.exists()
    with pytest.raises(UserError, match="is not an empty folder"):
        back_up(here.installation, tmp_path / "backup")


def test_a_full_warehouse_is_not_written_over(houses: Houses, tmp_path: Path) -> None:
    here, there = houses
    back_up(here.installation, tmp_path / "backup")
    there.write(3)
    with pytest.raises(UserError, match=r"is not empty \(shop.left_side has rows\)"):
        restore(there.installation, tmp_path / "backup")
    assert not Path(there.installation.artifacts).exists()


@pytest.mark.parametrize("victim", ["state", "warehouse.duckdb", "model.txt", "card.json"])
def test_a_damaged_backup_is_refused_before_anything_is_written(
    houses: Houses, tmp_path: Path, victim: str
) -> None:
    here, there = houses
    made = back_up(here.installation, tmp_path / "backup")
    name = KINDS[made.kind] if victim == "state" else victim
    path = next(path for path in files_of(tmp_path / "backup") if path.name == name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="altered"):
        restore(there.installation, tmp_path / "backup")
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        restore(there.installation, tmp_path / "backup")
    assert not Path(there.installation.artifacts).exists()
    assert not there.installation.warehouse.exists()


def test_an_unfinished_backup_is_none(houses: Houses, tmp_path: Path) -> None:
    here, there = houses
    back_up(here.installation, tmp_path / "backup")
    (tmp_path / "backup" / MANIFEST).unlink()
    with pytest.raises(UserError, match=f"has no {MANIFEST}"):
        restore(there.installation, tmp_path / "backup")


def test_an_artifact_that_is_gone_costs_only_itself(houses: Houses, tmp_path: Path) -> None:
    here, there = houses
    lost = here.registry.versions("shop", "eu")[0].artifact
    here.store.remove(lost)
    made = back_up(here.installation, tmp_path / "backup")
    assert made.missing == (lost,)
    assert len(made.artifacts) == 3
    assert restore(there.installation, tmp_path / "backup").missing == (lost,)


def test_a_backup_of_a_newer_schema_is_refused(houses: Houses, tmp_path: Path) -> None:
    here, there = houses
    back_up(here.installation, tmp_path / "backup")
    manifest = tmp_path / "backup" / MANIFEST
    found = f'"revision": "{schema.HEAD}"'
    assert found in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(found, '"revision": "999"'))
    with pytest.raises(UserError, match=r"has schema 999, but .* knows only up to"):
        restore(there.installation, tmp_path / "backup")


def test_a_backup_of_an_older_schema_is_brought_up_to_date(houses: Houses, tmp_path: Path) -> None:
    """Even of one that was made before there were revisions."""
    here, there = houses
    with here.registry.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {schema.VERSION_TABLE}")
        connection.exec_driver_sql("DROP TABLE registry_outbox_deliveries")
    assert back_up(here.installation, tmp_path / "backup").state.revision == "0"
    restore(there.installation, tmp_path / "backup")
    with there.registry.engine.connect() as connection:
        assert schema.version_of(connection) == schema.HEAD
        assert sa.inspect(connection).has_table("registry_outbox_deliveries")
    assert there.registry.audit() == here.registry.audit()


def test_the_kinds_of_database_are_not_mixed(tmp_path: Path, postgres: str) -> None:
    here = house_in(tmp_path / "here")
    here.deploy("eu", 1)
    back_up(here.installation, tmp_path / "backup")
    there = house_in(tmp_path / "there", postgres.format("postgres"))
    with pytest.raises(UserError, match="holds a database of sqlite"):
        restore(there.installation, tmp_path / "backup")


def test_without_postgresqls_programs_it_says_what_to_install(
    postgres: str, tmp_path: Path, houses: Houses, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = houses
    if here.installation.state_url.startswith("sqlite"):
        return
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="pg_dump is not on PATH; install"):
        back_up(here.installation, tmp_path / "backup")


def _write_on(folder: str, url: str, begun: Event, stop: Event) -> None:
    """Deploys and commits until it is told to stop: a run beside the backup."""
    house = house_in(Path(folder), url)
    number = 2
    while not stop.is_set():
        number += 1
        house.deploy("eu", number)
        house.write(7)
        begun.set()


def test_a_backup_beside_a_writer_is_of_one_instant(houses: Houses, tmp_path: Path) -> None:
    """Versions are registered after their artifacts; both tables grow in one transaction; a
    deployment comes before the rows that follow it."""
    here, there = houses
    context = multiprocessing.get_context("spawn")
    begun, stop = context.Event(), context.Event()
    writer = context.Process(
        target=_write_on,
        args=(str(here.installation.warehouse.parent), here.installation.state_url, begun, stop),
    )
    writer.start()
    folders = [tmp_path / f"backup-{number}" for number in range(5)]
    try:
        assert begun.wait(300)
        assert [back_up(here.installation, folder).missing for folder in folders] == [()] * 5
    finally:
        stop.set()
        writer.join()
    assert writer.exitcode == 0
    for folder in folders:
        with duckdb.connect(folder / WAREHOUSE, read_only=True) as connection:
            counts = connection.execute(
                "SELECT (SELECT count(*) FROM shop.left_side), "
                "(SELECT count(*) FROM shop.right_side)"
            ).fetchone()
        assert counts
        assert counts[0] == counts[1]
        deployed = verified(folder).state.rows["registry_generations"] - 3
        assert deployed >= 1
        assert (counts[0] - 100) // 7 in (deployed - 1, deployed)
    restore(there.installation, folders[-1])
    for version in there.registry.versions("shop"):
        there.store.get(version.artifact)


def test_a_log_of_another_warehouse_is_not_replayed(houses: Houses, tmp_path: Path) -> None:
    here, there = houses
    back_up(here.installation, tmp_path / "backup")
    there.installation.warehouse.with_name("warehouse.duckdb.wal").write_bytes(b"old")
    with pytest.raises(UserError, match="is left of another warehouse"):
        restore(there.installation, tmp_path / "backup")


def test_a_backup_can_be_moved(houses: Houses, tmp_path: Path) -> None:
    here, there = houses
    back_up(here.installation, tmp_path / "backup")
    shutil.move(tmp_path / "backup", tmp_path / "elsewhere")
    shutil.rmtree(here.installation.artifacts)
    here.installation.warehouse.unlink()
    assert (tmp_path / "elsewhere" / ARTIFACTS).is_dir()
    restore(there.installation, tmp_path / "elsewhere")
    assert len(there.registry.champions()) == 2
