"""What a run would cost is known before it starts."""

import pytest

from ml_patterns.base import parse_duration
from ml_patterns.errors import UserError
from ml_patterns.incremental.cost import CostModel, check_budget, lateness, measured_cost
from ml_patterns_tests.incremental.conftest import HOUR, START, Shop, row


def test_a_run_over_the_budget_stops_before_it_starts(shop: Shop) -> None:
    shop.change(max_rows_per_run=3)
    shop.land("a.parquet", [row(str(n), n % 2) for n in range(4)])
    shop.ingest()
    with shop.connect() as connection:
        check_budget(connection, shop.settings, "aggregates", [START])
        with pytest.raises(UserError, match=r"read 4 rows in 2 partitions .*max_rows_per_run 3;"):
            check_budget(connection, shop.settings, "aggregates", [START, START + HOUR])


def test_predicted_seconds_come_from_measured_cost(shop: Shop) -> None:
    shop.land("a.parquet", [row("1", 0)])
    shop.ingest()
    with shop.connect() as connection:
        assert measured_cost(connection, "shop", "aggregates") is None
        connection.execute(
            "INSERT INTO shop.run_cost SELECT 'aggregates', ?, 1, ?, r, r, 0, 0, r, 0.5 + r * 0.01 "
            "FROM (SELECT unnest([10, 20, 300]) AS r)",
            [START, START],
        )
        model = measured_cost(connection, "shop", "aggregates")
    assert model == CostModel(pytest.approx(0.5), pytest.approx(0.01))
    assert model.seconds(1_000) == pytest.approx(10.5)


@pytest.mark.slow
def test_lateness_says_what_each_grace_would_have_cost(shop: Shop) -> None:
    """The promise is checked by doing it: the same deliveries under every grace shown."""
    deliveries = [[row("1", 20)], [row("2", 19.5), row("3", 17.5)], [row("4", 25), row("5", 10.2)],
                  [row("6", 12), row("7", 20.9), row("8", 26)]]  # fmt: skip

    def deliver(to: Shop) -> dict[str, int]:
        for number, rows in enumerate(deliveries):
            to.land(f"{number}.parquet", rows)
            to.ingest()
        with to.connect() as connection:
            return {
                entry.text: entry.too_late
                for entry in lateness(connection, to.settings)
                if to is shop or entry.current
            }

    foreseen = deliver(shop)
    assert len(set(foreseen.values())) > 3
    for grace, rows in foreseen.items():
        other = Shop(shop.folder / grace, shop.settings)
        other.landed.mkdir(parents=True)
        events = shop.settings.events.model_copy(
            update={"grace": parse_duration(grace), "label_delay": parse_duration("0s")}
        )
        other.settings = shop.settings.model_copy(update={"events": events}).located(
            shop.folder, other.folder
        )
        assert deliver(other) == {grace: rows}
        assert other.classes().get("too_late", 0) == rows
