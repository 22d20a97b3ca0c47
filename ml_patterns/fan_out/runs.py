"""Which regions a run trains together.

Belongs here: cutting a fleet into runs. Does not: what a run does (`batch.py`, `fleet.py`).
"""

from collections.abc import Sequence
from itertools import pairwise

from ml_patterns.fan_out.settings import TrainingSettings


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
