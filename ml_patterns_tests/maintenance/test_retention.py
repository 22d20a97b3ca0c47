"""What nothing needs goes; a champion, a rollback, a review, a replay and the audit log stay."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import sqlalchemy as sa

from ml_patterns.base import utc_now
from ml_patterns.branching.commands import replay_decisions
from ml_patterns.circuit_breaker import tables as breaker_tables
from ml_patterns.circuit_breaker.predictions import append
from ml_patterns.incremental import audit as ledger_audit
from ml_patterns.incremental import dead_letter
from ml_patterns.maintenance.alerts import FailedRun, report_failed_run
from ml_patterns.maintenance.contents import table_names
from ml_patterns.maintenance.jobs import prune_job, prune_schedule
from ml_patterns.maintenance.retention import Pruned, prune_pipeline, prune_shared
from ml_patterns.maintenance.settings import RetentionSettings
from ml_patterns.registry.deliveries import claim, note
from ml_patterns.registry.outbox import mark_delivered, notifications
from ml_patterns.registry.registry import Registry, Verdict
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.card import ModelCard
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns.storage.warehouse import Warehouse
from ml_patterns_tests.branching.conftest import Shop as Gated
from ml_patterns_tests.branching.conftest import card, events, fitted
from ml_patterns_tests.incremental.conftest import START, Shop, make_settings, row
from ml_patterns_tests.maintenance.conftest import House

LATER = timedelta(days=400)


def settings_with(**retention: str) -> PipelineSettings:
    block = {"path": "e/*.csv", "id": "i", "time": "t", "version": "v", "region": "r"}
    return PipelineSettings.model_validate(
        {"name": "shop", "events": {**block, "start": "2026-01-01"}, "retention": retention}
    )


def counts(found: list[Pruned]) -> dict[str, int]:
    return {gone.what: gone.rows for gone in found}


def everything(engine: sa.Engine) -> dict[str, list[Any]]:
    """Every row of every table."""
    with engine.connect() as connection:
        return {
            name: sorted(map(repr, connection.execute(sa.text(f"SELECT * FROM {name}"))))
            for name in table_names(connection)
        }


def prune(house: House, now: datetime, *, dry_run: bool = False) -> dict[str, int]:
    """Both parts, of one pipeline with the default settings."""
    settings, engine = settings_with(), engine_for(house.installation.state_url)
    warehouse = Warehouse(house.installation.warehouse)
    found = prune_pipeline(settings, warehouse, engine, now, dry_run=dry_run)
    found += prune_shared([settings], engine, house.store, now, dry_run=dry_run)
    return counts(found)


@pytest.fixture
def house(houses: tuple[House, House]) -> House:
    """With notifications (one of them pending), breaker events, cached answers and an orphan."""
    house, _ = houses
    engine, now = engine_for(house.installation.state_url), utc_now()
    for notification in notifications(engine):
        mark_delivered(engine, notification, now)
        claim(engine, "jira", notification, now, timedelta(minutes=1))
        note(engine, "jira", notification, now)
    report_failed_run(engine, "shop", FailedRun("4f1c", "shop_build_job", "no"))
    with engine.begin() as connection:
        connection.execute(
            sa.insert(breaker_tables.breaker_events).values(
                name="http://m", at=now, from_state="closed", to_state="open", epoch=1, actor="a",
                reason="r",
            )
        )  # fmt: skip
        connection.execute(
            sa.insert(breaker_tables.prediction_cache).values(
                model="shop.eu", version="1", features_hash="f", prediction=0.5, made_at=now
            )
        )
        for hour, healed_at in ((1, now), (2, None)):
            connection.execute(
                sa.insert(breaker_tables.degraded_partitions).values(
                    pipeline="shop", partition_start=datetime(2026, 1, 5, hour, tzinfo=UTC),
                    since=now, healed_at=healed_at,
                )
            )  # fmt: skip
    house.store.put("nobody registered this\n", _orphan(house))
    return house


def _orphan(house: House) -> ModelCard:
    version = house.registry.versions("shop", "eu")[0]
    return house.store.get(version.artifact).card


def test_what_is_young_stays(house: House) -> None:
    before = everything(house.registry.engine)
    assert set(prune(house, utc_now()).values()) == {0}
    assert everything(house.registry.engine) == before


def test_what_is_old_and_needed_by_nothing_goes(house: House) -> None:
    engine = house.registry.engine
    told = len(notifications(engine)) - 1
    before = everything(engine)
    would = prune(house, utc_now() + LATER, dry_run=True)
    assert everything(engine) == before
    assert len(list(house.store.written())) == 5
    went = prune(house, utc_now() + LATER)
    assert went == would == {
        "notifications": told, "healed partitions": 1, "breaker events": 1,
        "cached predictions": 1, "artifacts": 1,
    }  # fmt: skip
    after = everything(engine)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        "registry_outbox", "registry_outbox_deliveries", "degraded_partitions", "breaker_events",
        "prediction_cache",
    }  # fmt: skip
    (pending,) = notifications(engine)
    assert pending.kind == "run_failed"
    assert len(after["degraded_partitions"]) == 1
    assert set(prune(house, utc_now() + LATER).values()) == {0}


def test_every_version_keeps_its_artifact_and_serves_again(house: House) -> None:
    prune(house, utc_now() + LATER)
    for version in house.registry.versions("shop"):
        house.store.get(version.artifact)
    back = house.registry.rollback("shop", "eu", to_generation=1, actor="ann", reason="better")
    assert house.store.get(back.artifact).model_text == "model eu 1\n"
    assert [review.state for review in house.registry.reviews()] == ["pending"]


def test_the_gate_replays_after_it(tmp_path: Path) -> None:
    """With real models and their evidence: the last decision was made against a champion."""
    url = f"sqlite:///{tmp_path / 'state.sqlite'}"
    store = ArtifactStore(str(tmp_path / "artifacts"))
    gated = Gated(Registry(engine_for(url)), store, str(tmp_path / "artifacts"), url)
    test = events(600, seed=2, start=datetime(2026, 1, 12, tzinfo=UTC))
    for seed in (1, 4):
        frame = events(800, seed=seed)
        booster = fitted(frame)
        judged = gated.judge(booster, card(frame, booster), test)
        if judged.decision.verdict is Verdict.DEPLOY:
            gated.registry.promote(
                gated.registry.version("shop", "eu", judged.decision.version),
                expected_generation=judged.decision.champion_generation,
                decision=judged.decision, actor="test", reason="it passed",
            )  # fmt: skip
    assert gated.registry.champion("shop", "eu")
    prune_shared([settings_with()], gated.registry.engine, store, utc_now() + LATER)
    assert replay_decisions(gated.registry) == []
    assert len(gated.registry.decisions()) == 2


def test_an_artifact_that_was_just_written_is_no_orphan_yet(house: House) -> None:
    """A worker writes it before its version is registered."""
    engine, settings = house.registry.engine, settings_with()
    found = prune_shared([settings], engine, house.store, utc_now() + timedelta(days=6))
    assert counts(found)["artifacts"] == 0
    for folder in Path(house.installation.artifacts).glob("*/*"):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (1_000_000_000, 1_000_000_000))
    assert counts(prune_shared([settings], engine, house.store, utc_now()))["artifacts"] == 1


def test_the_most_patient_pipeline_decides_what_is_shared(house: House) -> None:
    hasty, patient = settings_with(), settings_with(breaker_events="900d", orphans="900d")
    now = utc_now() + LATER
    found = prune_shared([hasty, patient], house.registry.engine, house.store, now)
    assert counts(found) == {"breaker events": 0, "cached predictions": 1, "artifacts": 0}


@pytest.mark.parametrize(
    ("block", "sentence"),
    [({"notifications": "3d"}, "at least 15d"), ({"orphans": "1h"}, "at least 1d")],
)
def test_what_would_lose_something_is_refused(block: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RetentionSettings.model_validate(block)


# The warehouse


@pytest.fixture
def late(tmp_path: Path) -> Shop:
    """Two files with refused rows, a partition that was built twice, two days of answers."""
    shop = Shop(tmp_path, make_settings(tmp_path))
    shop.land("a.parquet", [row("1", 0), row("2", 30)])
    shop.catch_up()
    shop.land("b.parquet", [row("3", 0), row("4", 29.5), {**row("5", 0), "at": None}])
    shop.catch_up()
    shop.land("c.parquet", [row("6", 0), row("7", 31)])
    shop.catch_up()
    return shop


def pruned(shop: Shop, now: datetime, *, dry_run: bool = False, **keep: str) -> dict[str, int]:
    settings = shop.settings.model_copy(update={"retention": settings_with(**keep).retention})
    engine = engine_for(f"sqlite:///{shop.folder / 'state.sqlite'}")
    return counts(prune_pipeline(settings, shop.warehouse, engine, now, dry_run=dry_run))


def test_data_is_kept_until_somebody_says_how_long(late: Shop) -> None:
    before = late.classes()
    found = pruned(late, late.clock() + LATER)
    assert "dead letters" not in found
    assert "predictions" not in found
    assert late.classes() == before


def test_costs_of_what_was_built_again_go(late: Shop) -> None:
    accounts = late.accounts()
    total = late.query("SELECT count(*) FROM shop.run_cost")[0][0]
    current = late.query("SELECT count(*) FROM shop.partition_state WHERE events IS NOT NULL")[0][0]
    assert total > current
    assert pruned(late, late.clock() + LATER)["costs"] == total - current
    assert late.accounts() == accounts
    assert late.catch_up() == {"aggregates": [], "features": []}


def test_old_dead_letters_go_and_every_kept_row_is_accounted_for(late: Shop) -> None:
    """Of file b: one row too late, one invalid; file c is of the latest listing and is held
    against the manifest."""
    features, before = late.table("features"), late.classes()
    assert (before["too_late"], before["invalid"]) == (2, 1)
    would = pruned(late, late.clock() + LATER, dry_run=True, dead_letters="30d")
    assert late.classes() == before
    assert pruned(late, late.clock() + timedelta(days=29), dead_letters="30d")["dead letters"] == 0
    assert pruned(late, late.clock() + LATER, dead_letters="30d") == would
    assert would["dead letters"] == 2
    assert late.classes() == {"accepted": before["accepted"], "too_late": 1}
    accounts = late.accounts()
    assert accounts.delivered == accounts.accepted + accounts.too_late
    with late.connect() as connection:
        assert ledger_audit.unaccounted_rows(connection, late.settings) == []
        assert [entry[2] for entry in dead_letter.dead_letters(connection, "shop")] == ["too_late"]
    assert late.table("features") == features
    assert late.catch_up() == {"aggregates": [], "features": []}


def test_replayed_rows_are_no_dead_letters(late: Shop) -> None:
    with late.connect() as connection:
        dead_letter.replay(connection, late.settings, late.clock())
    late.catch_up()
    table = late.table("features")
    assert pruned(late, late.clock() + LATER, dead_letters="30d")["dead letters"] == 1  # invalid
    assert late.catch_up() == {"aggregates": [], "features": []}
    assert late.table("features") == table


def test_old_answers_go_by_whole_days(tmp_path: Path) -> None:
    shop = Shop(tmp_path, make_settings(tmp_path))
    shop.land("a.parquet", [row(str(day), day * 24 + 5) for day in range(20)])
    shop.catch_up()
    answers = pd.DataFrame(
        {
            "partition_start": [START + timedelta(days=day, hours=5) for day in range(20)],
            "event_id": [str(day) for day in range(20)], "made_at": START, "region": "eu",
            "prediction": 0.5, "source": "live", "age_s": 0.0, "model_version": "1", "reason": "",
            "attempts": 1, "features_hash": "f", "label_known": False,
        }
    )  # fmt: skip
    with shop.connect() as connection:
        append(connection, "shop", answers)
    assert pruned(shop, shop.clock(), predictions="1d")["predictions"] == 20 - 7 - 1
    left = shop.query("SELECT min(partition_start), count(*) FROM shop.predictions")
    assert left == [(START + timedelta(days=12, hours=5), 8)]
    assert len(shop.table("features")) == 20


def test_the_audit_log_has_no_retention() -> None:
    """Nor has anything that a decision can be replayed from."""
    assert not {"audit", "decisions", "versions", "reviews", "generations"} & set(
        RetentionSettings.model_fields
    )


def test_a_dry_run_needs_no_warehouse(tmp_path: Path) -> None:
    engine = engine_for(f"sqlite:///{tmp_path / 'state.sqlite'}")
    missing = Warehouse(tmp_path / "none.duckdb")
    found = prune_pipeline(settings_with(), missing, engine, utc_now(), dry_run=True)
    assert set(counts(found).values()) == {0}
    assert not missing.path.exists()


def test_the_job_prunes_its_pipeline(late: Shop) -> None:
    settings = late.settings.model_copy(
        update={"retention": settings_with(dead_letters="30d").retention}
    )
    late.query("UPDATE shop.source_files SET registered_at = TIMESTAMP '2000-01-01'")
    state = f"sqlite:///{late.folder / 'state.sqlite'}"
    result = prune_job(settings).execute_in_process(
        resources={
            "warehouse": WarehouseResource(database=str(late.warehouse.path)),
            "operational": OperationalResource(url=state),
        }
    )
    assert result.success
    assert late.classes()["too_late"] == 1
    schedule = prune_schedule(settings)
    assert schedule.job_name == "shop_prune_job"
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
