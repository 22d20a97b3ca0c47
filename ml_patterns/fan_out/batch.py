"""A batch of regions: what each gets, and what is left to train.

Belongs here: reading the batch, the choice per region, the jobs. Does not: the hierarchy
(`cold_start.py`), the workers (`pool.py`), Dagster (`assets.py`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from ml_patterns.errors import NothingToTrainError
from ml_patterns.fan_out.cold_start import Choice, Standing, choose
from ml_patterns.fan_out.pool import Job, Member
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.fan_out.split import between
from ml_patterns.fan_out.training import REGION_COLUMN, usable_rows
from ml_patterns.fan_out.unchanged import member_key, training_key
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.ledger import watermark
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.card import Window
from ml_patterns.storage.features import FeatureColumn, feature_columns, read_features


@dataclass(frozen=True)
class RegionRows:
    """A region's labelled rows below the watermark, and what there is to learn from them."""

    rows: pd.DataFrame
    standing: Standing

    def slice(self, window: Window) -> pd.DataFrame:
        """The rows of a card's window."""
        if window.start is None or window.end is None:
            return self.rows.iloc[:0]
        return self.rows[between(self.rows["event_time"], window.start, window.end)]


@dataclass(frozen=True)
class Batch:
    """What was read from the warehouse, once, before anything is trained.

    Attributes:
        everybody: the rows of all regions; None where no region of the batch needs them.
    """

    settings: PipelineSettings
    columns: tuple[FeatureColumn, ...]
    watermark: datetime | None
    regions: Mapping[str, RegionRows]
    everybody: RegionRows | None

    def choices(self, champions: Collection[str]) -> dict[str, Choice]:
        """What each region gets.

        Args:
            champions: regions with a deployed model.
        """
        everybody = self.everybody.standing if self.everybody else None
        return {
            region: choose(
                found.standing, everybody, self.settings.training, champion=region in champions
            )
            for region, found in self.regions.items()
        }

    def training_keys(self, choices: Mapping[str, Choice]) -> dict[str, str]:
        """The key of each region that gets a model; same key, same model."""
        keys = {
            region: self._key(self.regions[region].rows, self.columns, region, choice.kind)
            for region, choice in choices.items()
            if choice.kind == "own"
        }
        pooled = [region for region, choice in choices.items() if choice.kind == "pooled"]
        if pooled and self.everybody:
            columns = (*self.columns, REGION_COLUMN)
            shared = self._key(self.everybody.rows, columns, "*", "pooled")
            keys.update({region: member_key(shared, region) for region in pooled})
        return keys

    def jobs(self, choices: Mapping[str, Choice], folder: Path, artifacts: str) -> list[Job]:
        """Writes the rows that the workers need and says what each is to do.

        Args:
            choices: only what is to be trained.
            folder: exists; holds one file per job.
            artifacts: root of the artifact store.
        """
        members = {
            region: Member(region, choice.reason)
            for region, choice in choices.items()
            if choice.kind in ("own", "pooled")
        }
        own = [region for region in members if choices[region].kind == "own"]
        pooled = [member for region, member in members.items() if region not in own]
        jobs = [
            self._job(
                (members[region],), self.regions[region].rows, folder / str(number), artifacts
            )
            for number, region in enumerate(own)
        ]
        if pooled and self.everybody:
            rows = self.everybody.rows
            jobs.append(self._job(tuple(pooled), rows, folder / "pooled", artifacts, pooled=True))
        return jobs

    def _key(
        self, rows: pd.DataFrame, columns: tuple[FeatureColumn, ...], region: str, kind: str
    ) -> str:
        return training_key(
            rows,
            columns,
            self.settings.training,
            pipeline=self.settings.name,
            region=region,
            label_delay=self.settings.events.label_delay,
            kind=kind,
        )

    def _job(
        self,
        members: tuple[Member, ...],
        rows: pd.DataFrame,
        path: Path,
        artifacts: str,
        *,
        pooled: bool = False,
    ) -> Job:
        rows.reset_index(drop=True).to_feather(path)
        return Job(
            kind="pooled" if pooled else "own",
            members=members,
            rows=len(rows),
            path=str(path),
            columns=self.columns,
            settings=self.settings.training,
            pipeline=self.settings.name,
            label_delay=self.settings.events.label_delay,
            watermark=self.watermark,
            artifacts=artifacts,
        )


def batches(regions: Sequence[str], settings: TrainingSettings) -> list[list[str]]:
    """Cuts a fleet into runs of at most `training.regions_per_run` regions, as even as can be.

    A run covers a range of partition keys, so the regions are to come in the order of Dagster's
    dynamic partitions. The pooled model, where a run needs it, is trained once in each run.

    Returns:
        The regions in their order, none twice; no runs for no regions.
    """
    runs = -(-len(regions) // settings.regions_per_run)
    bounds = [len(regions) * number // runs for number in range(runs + 1)] if runs else []
    return [list(regions[start:end]) for start, end in pairwise(bounds)]


def read_batch(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, regions: Sequence[str]
) -> Batch:
    """Reads the regions' rows; those of all others too if a region needs the pooled model.

    Raises:
        NothingToTrainError: none of the regions has a row of features.
    """
    columns = feature_columns(connection, settings.name)
    if not columns:
        raise nothing_to_train(settings, regions)
    training, label_delay = settings.training, settings.events.label_delay
    closed = closed_until(connection, settings)

    def gather(frame: pd.DataFrame) -> RegionRows:
        rows = _as_the_model_sees(usable_rows(frame, closed), columns)
        standing = Standing.of(rows, training, label_delay=label_delay, watermark=closed)
        return RegionRows(rows, standing)

    frame = read_features(connection, settings.name, regions=regions, labelled=True)
    if frame.empty:
        raise nothing_to_train(settings, regions)
    # One region at a time: a second copy of all rows would be most of the memory of the run.
    gathered = {str(region): gather(rows) for region, rows in frame.groupby("region", sort=True)}
    nothing = gather(frame.iloc[:0])
    found = {region: gathered.get(region, nothing) for region in regions}
    wanting = any(
        each.standing.rows and each.standing.shortfall(training) for each in found.values()
    )
    everybody = read_features(connection, settings.name, labelled=True) if wanting else None
    return Batch(
        settings=settings,
        columns=columns,
        watermark=closed,
        regions=found,
        everybody=None if everybody is None else gather(everybody),
    )


def _as_the_model_sees(rows: pd.DataFrame, columns: tuple[FeatureColumn, ...]) -> pd.DataFrame:
    """The same rows with float64 for every number.

    Pandas types a column by all regions that were read together; the fingerprint of a region's test
    slice, to which a review is bound, must not depend on the company.
    """
    numbers = {
        column.name: pd.to_numeric(rows[column.name]).to_numpy(np.float64, na_value=np.nan)
        for column in columns
        if column.kind == "numeric"
    }
    return rows.assign(**numbers)


def closed_until(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> datetime | None:
    """Start of the partition that holds the watermark (UTC): all before it is complete."""
    time = watermark(connection, settings)
    if time is None:
        return None
    return Grain(settings.events.grain).floor(time).replace(tzinfo=time.tzinfo)


def nothing_to_train(settings: PipelineSettings, regions: Sequence[str]) -> NothingToTrainError:
    """The sentence for regions without a single labelled row."""
    named = ", ".join(regions[:5]) + (", …" if len(regions) > 5 else "")
    plural = "s" if len(regions) != 1 else ""
    verb = "have" if len(regions) != 1 else "has"
    return NothingToTrainError(
        f"region{plural} {named} of pipeline {settings.name} {verb} no labelled features yet; "
        f"materialize {settings.name}/event_features first, or correct the region's name"
    )
