"""A batch of regions: what each gets, and what is left to train.

Belongs here: reading the batch, the choice per region, the jobs. Does not: the hierarchy
(`cold_start.py`), the workers (`pool.py`), Dagster (`assets.py`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.feather import write_feather

from ml_patterns.errors import NothingToTrainError
from ml_patterns.fan_out.cold_start import Choice, Standing, choose
from ml_patterns.fan_out.pool import Job, Member
from ml_patterns.fan_out.split import naive
from ml_patterns.fan_out.training import REGION_COLUMN
from ml_patterns.fan_out.unchanged import member_key, training_key
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.ledger import watermark
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.card import Window
from ml_patterns.storage.features import FeatureColumn, feature_columns, read_labelled


@dataclass(frozen=True)
class RegionRows:
    """Labelled rows below the watermark by event time, and what there is to learn from them."""

    rows: pa.Table
    standing: Standing

    def slice(self, window: Window) -> pd.DataFrame:
        """The rows of a card's window."""
        start = end = 0
        if window.start is not None and window.end is not None:
            bounds = [naive(bound).to_datetime64() for bound in (window.start, window.end)]
            start, end = np.searchsorted(self.rows["event_time"].to_numpy(), bounds)
        frame: pd.DataFrame = self.rows.slice(start, max(end - start, 0)).to_pandas()
        return frame


@dataclass(frozen=True)
class Training:
    """A model that regions get: a region's own, or the pooled one.

    Attributes:
        rows: what it is trained on.
        key: the model's training key; same key, same model.
        keys: that of each region, whose card has a test slice of its own.
    """

    kind: Literal["own", "pooled"]
    rows: pa.Table
    key: str
    keys: Mapping[str, str]


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

    def trainings(self, choices: Mapping[str, Choice]) -> Iterator[Training]:
        """The models that the regions get, those with the most rows first."""
        pooled = [region for region, choice in choices.items() if choice.kind == "pooled"]
        if pooled and self.everybody:
            rows = self.everybody.rows
            shared = self._key(rows, (*self.columns, REGION_COLUMN), "*", "pooled")
            keys = {region: member_key(shared, region) for region in pooled}
            yield Training("pooled", rows, shared, keys)
        own = [region for region, choice in choices.items() if choice.kind == "own"]
        for region in sorted(own, key=lambda each: (-self.regions[each].standing.rows, each)):
            rows = self.regions[region].rows
            key = self._key(rows, self.columns, region, "own")
            yield Training("own", rows, key, {region: key})

    def job(self, training: Training, members: Sequence[Member], path: Path, root: str) -> Job:
        """Writes the rows that a worker needs and says what it is to do.

        Args:
            members: the regions that wait for the model.
            path: the file to write.
            root: of the artifact store.
        """
        write_feather(training.rows, str(path), compression="uncompressed")
        return Job(
            kind=training.kind,
            members=tuple(members),
            path=str(path),
            columns=self.columns,
            settings=self.settings.training,
            pipeline=self.settings.name,
            label_delay=self.settings.events.label_delay,
            watermark=self.watermark,
            artifacts=root,
            key=training.key,
        )

    def _key(
        self, rows: pa.Table, columns: tuple[FeatureColumn, ...], region: str, kind: str
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

    def gathered(rows: pa.Table) -> RegionRows:
        if closed is not None:
            times = rows["event_time"].to_numpy()
            rows = rows.slice(0, int(np.searchsorted(times, naive(closed).to_datetime64())))
        seen = rows.select(["event_time", "label"]).to_pandas()
        standing = Standing.of(seen, training, label_delay=label_delay, watermark=closed)
        return RegionRows(rows, standing)

    rows = read_labelled(connection, settings.name, columns, regions=regions)
    if not rows.num_rows:
        raise nothing_to_train(settings, regions)
    by_region = {region: gathered(part) for region, part in _by_region(rows)}
    nothing = gathered(rows.slice(0, 0))
    found = {region: by_region.get(region, nothing) for region in regions}
    wanting = any(
        each.standing.rows and each.standing.shortfall(training) for each in found.values()
    )
    everybody = read_labelled(connection, settings.name, columns) if wanting else None
    return Batch(
        settings=settings,
        columns=columns,
        watermark=closed,
        regions=found,
        everybody=None if everybody is None else gathered(everybody),
    )


def _by_region(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Each region's part of rows that lie region by region; a view, not a copy."""
    start = 0
    for count in pc.value_counts(rows["region"]).to_pylist():  # in the order of the rows
        yield count["values"], rows.slice(start, count["counts"])
        start += count["counts"]


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
