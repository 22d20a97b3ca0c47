"""What we take from inside Dagster is still there: read this first when an upgrade fails."""

import dagster as dg

from ml_patterns import dagster_internals


def test_the_target_of_a_check_evaluation_is_still_where_we_import_it_from() -> None:
    """If this fails after an upgrade: find the record's new place and mend `dagster_internals`."""
    target = dagster_internals.AssetCheckEvaluationTargetMaterializationData(
        storage_id=1, run_id="run", timestamp=0.0
    )
    evaluation = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("model"),
        check_name="gate",
        passed=True,
        metadata={},
        partition="eu",
        target_materialization_data=target,
    )
    assert evaluation.target_materialization_data.storage_id == 1


def test_the_newest_materialization_of_a_partition_is_found() -> None:
    """Of this partition, not of the asset; none before the first."""
    key = dg.AssetKey("model")
    with dg.DagsterInstance.ephemeral() as instance:
        assert dagster_internals.latest_target(instance, key, "eu") is None
        for region in ("eu", "eu", "us"):
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=region))
        target = dagster_internals.latest_target(instance, key, "eu")
        (newest, *_) = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=["eu"]), limit=5
        ).records
    assert target is not None
    assert (target.storage_id, target.run_id) == (newest.storage_id, newest.run_id)


def test_an_asset_knows_whether_others_run_with_it() -> None:
    """Assets that are only upstream are not others."""
    seen = []
    upstream = dg.AssetSpec("upstream")

    @dg.asset(deps=[upstream])
    def model(context: dg.AssetExecutionContext) -> None:
        seen.append(dagster_internals.others_selected(context))

    @dg.asset(deps=[model])
    def deployed() -> None:
        """Follows."""

    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([upstream, model, deployed], selection=[model], instance=instance)
        dg.materialize([upstream, model, deployed], selection=[model, deployed], instance=instance)
    assert seen == [False, True]
