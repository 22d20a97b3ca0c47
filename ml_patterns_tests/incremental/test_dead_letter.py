"""Nothing is dropped: what came too late waits, and counts when it is replayed."""

import pytest

from ml_patterns.errors import SourceFileError, UserError
from ml_patterns.incremental import dead_letter, ledger
from ml_patterns_tests.incremental.conftest import HOUR, START, Shop, row


@pytest.fixture
def late(shop: Shop) -> Shop:
    shop.land("a.parquet", [row("1", 0), row("2", 12)])
    shop.ingest()
    shop.land("b.parquet", [row("3", 0), row("4", 5), row("5", 2_000), {**row("6", 0), "at": None}])
    shop.catch_up()
    return shop


def replay(shop: Shop, **chosen: object) -> int:
    with shop.connect() as connection:
        return dead_letter.replay(connection, shop.settings, shop.clock(), **chosen)  # type: ignore[arg-type]


def test_the_dead_letter_names_file_partition_and_class(late: Shop) -> None:
    path = str(late.landed / "b.parquet")
    assert late.query("SELECT path, partition_start, class, rows FROM shop.dead_letter") == [
        (path, START, "too_late", 1),
        (path, START + 5 * HOUR, "too_late", 1),
        (path, START + 2_000 * HOUR, "future", 1),
        (path, None, "invalid", 1),
    ]
    assert [entry[1] for entry in late.table("features")] == ["1", "2"]


def test_replaying_one_partition_restates_that_one(late: Shop) -> None:
    assert replay(late, partition=START) == 1
    assert late.due_hours("aggregates") == {0: "late rows"}
    late.catch_up()
    assert [entry[1] for entry in late.table("features")] == ["1", "3", "2"]
    found = late.accounts()
    assert (found.delivered, found.accepted, found.too_late) == (6, 3, 1)
    assert (found.future, found.invalid) == (1, 1)


def test_replaying_a_file_replays_what_of_it_has_a_partition(late: Shop) -> None:
    assert replay(late, path=str(late.landed / "b.parquet")) == 3
    late.catch_up()
    assert [entry[1] for entry in late.table("features")] == ["1", "3", "4", "2"]
    late.now = 2_002  # now the hour of the row from the future is over
    late.catch_up()
    assert [entry[1] for entry in late.table("features")] == ["1", "3", "4", "2", "5"]


def test_a_replay_is_done_once(late: Shop) -> None:
    assert (replay(late), replay(late)) == (3, 0)


def test_a_replay_survives_a_correction_of_the_file(late: Shop) -> None:
    replay(late)
    late.land("b.parquet", [row("3", 0, amount=7), row("4", 5)])
    late.catch_up()
    assert {entry[1]: entry[5] for entry in late.table("features")}["3"] == 7


def test_rows_after_the_streams_end_cannot_be_replayed(late: Shop) -> None:
    late.change(end="2026-06-10")
    assert replay(late) == 2


def test_a_removed_file_is_named_and_goes_only_when_it_is_acknowledged(late: Shop) -> None:
    removed = late.landed / "a.parquet"
    removed.unlink()
    assert late.ingest().missing == (str(removed),)
    assert [entry[1] for entry in late.table("features")] == ["1", "2"]
    replay(late, partition=START)
    with pytest.raises(SourceFileError, match=r"a\.parquet .*dead-letter acknowledge shop"):
        late.build("aggregates")

    with late.connect() as connection:
        ledger.acknowledge_removal(connection, "shop", [str(removed)], late.clock())
    late.catch_up()
    assert [entry[1] for entry in late.table("features")] == ["3"]
    assert late.accounts().delivered == 4


def test_a_removed_file_that_comes_back_is_new(late: Shop) -> None:
    path = late.landed / "a.parquet"
    content = path.read_bytes()
    path.unlink()
    with late.connect() as connection:
        ledger.acknowledge_removal(connection, "shop", [str(path)], late.clock())
    late.catch_up()
    path.write_bytes(content)
    late.catch_up()
    assert [entry[1] for entry in late.table("features")] == ["1", "2"]


def test_acknowledging_a_file_that_was_never_read_is_a_sentence(late: Shop) -> None:
    with late.connect() as connection, pytest.raises(UserError, match=r"no file x\.parquet"):
        ledger.acknowledge_removal(connection, "shop", ["x.parquet"], late.clock())


def test_acknowledging_a_file_that_is_still_there_is_refused(late: Shop) -> None:
    """It would be gone from the tables and yet lie under the path."""
    path = str(late.landed / "a.parquet")
    with late.connect() as connection, pytest.raises(UserError, match="still there"):
        ledger.acknowledge_removal(connection, "shop", [path], late.clock())


def test_of_many_removed_files_a_few_are_named_and_the_others_counted(shop: Shop) -> None:
    """A landing zone that was moved: nobody reads ten thousand sentences."""
    names = [f"{number}.parquet" for number in range(8)]
    for number, name in enumerate(names):
        shop.land(name, [row(str(number), number)])
    shop.ingest()
    for name in names:
        (shop.landed / name).unlink()
    with shop.connect() as connection:
        *told, rest = dead_letter.removed_files(connection, shop.settings)
    assert [name in sentence for name, sentence in zip(names[:5], told, strict=True)] == [True] * 5
    assert rest == "3 more files whose rows count are gone"


def test_a_file_whose_correction_was_unreadable_is_missed_when_it_goes(shop: Shop) -> None:
    """Its earlier rows still count."""
    path = shop.land("a.parquet", [row("1", 0)])
    shop.catch_up()
    path.write_bytes(path.read_bytes()[:-20])
    shop.ingest()
    path.unlink()
    assert shop.ingest().missing == (str(path),)
    with shop.connect() as connection:
        ledger.acknowledge_removal(connection, "shop", [str(path)], shop.clock())
    shop.catch_up()
    assert shop.ingest().missing == ()
    assert shop.table("features") == []
