"""What the asset graph says of itself: where the code is, what a table holds, when it is late."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from ml_patterns.pipeline import build_defs
from ml_patterns.project import Project
from ml_patterns.storage.resources import storage_resources
from ml_patterns_tests.ui.shop import HOURS, key, make_shop


@dataclass(frozen=True)
class Shop:
    """The project and the folder of its pipeline."""

    project: Project
    folder: Path


@pytest.fixture
def shop(installation: Path, tmp_path: Path) -> Shop:
    folder = make_shop(tmp_path / "shop", f"shop_of_{tmp_path.name}")
    return Shop(Project.load(tmp_path / "shop"), folder)


def specs(project: Project) -> dict[str, dg.AssetSpec]:
    found = project.definitions.resolve_all_asset_specs()
    return {"/".join(spec.key.path[1:]): spec for spec in found}


def test_every_asset_leads_to_its_code(shop: Shop) -> None:
    """Also in a copied project: the links are made from where the files lie now."""
    for name, spec in specs(shop.project).items():
        references = spec.metadata["dagster/code_references"].code_references
        files = [Path(each.file_path) for each in references]
        assert all(file.is_file() for file in files), name
        assert shop.folder / "defs.yaml" in files, name
        if name != "landed_events":  # which no code computes
            assert any(file.name == "assets.py" for file in files), name
    features = (
        specs(shop.project)["event_features"].metadata["dagster/code_references"].code_references
    )
    assert shop.folder / "features.sql" in [Path(each.file_path) for each in features]


def test_assets_can_be_late_while_the_stream_goes_on(
    make_project: Callable[..., Path], installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Path(__file__).parents[2] / "data" / "deliveries" / "events"
    monkeypatch.setenv("ML_PATTERNS_EVENTS", str(events))
    ended = specs(Project.load(make_project("stream_that_ended")))
    late = {name for name, spec in ended.items() if spec.freshness_policy}
    assert late == {"regional_model", "leaderboard"}
    endless = ('    end: "2026-06-08"\n', "")
    live = specs(Project.load(make_project("stream_that_goes_on", endless)))
    assert {name for name, spec in live.items() if not spec.freshness_policy} == {
        "landed_events", "deployed_model",
    }  # fmt: skip


def test_the_newest_materialization_carries_columns_and_lineage(shop: Shop) -> None:
    """And only it: on each of a year of hours they would be most of what Dagster stores."""
    stores = storage_resources(shop.project.installation)  # a process makes them once by itself
    definitions = build_defs(shop.project.pipeline("shop"), stores)
    with dg.DagsterInstance.ephemeral() as instance:
        tags = {
            "dagster/asset_partition_range_start": key(0),
            "dagster/asset_partition_range_end": key(HOURS - 1),
        }
        for job in ("ingest", "build"):
            done = definitions.resolve_job_def(f"shop_{job}_job").execute_in_process(
                instance=instance, tags={} if job == "ingest" else tags
            )
            assert done.success
        for asset in ("event_aggregates", "event_features", "landed_events"):
            records = instance.fetch_materializations(
                dg.AssetKey(["shop", asset]), limit=2 * HOURS
            ).records
            assert len(records) == HOURS
            carrying = [
                record.partition_key
                for record in records
                if record.asset_materialization
                and "dagster/column_schema" in record.asset_materialization.metadata
            ]
            assert carrying == [records[0].partition_key], asset
        event = instance.get_latest_materialization_event(dg.AssetKey(["shop", "event_features"]))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    schema, lineage = metadata["dagster/column_schema"], metadata["dagster/column_lineage"]
    assert isinstance(schema, dg.TableSchemaMetadataValue)
    assert isinstance(lineage, dg.TableColumnLineageMetadataValue)
    types = {column.name: column.type for column in schema.schema.columns}
    assert (types["items_before"], types["label"]) == ("BIGINT", "BOOLEAN")
    sources = {
        name: [("/".join(dep.asset_key.path), dep.column_name) for dep in deps]
        for name, deps in lineage.column_lineage.deps_by_column.items()
    }
    assert sources["items_before"] == [("shop/event_aggregates", "items")]
    assert sources["label"] == [("shop/landed_events", "late")]
