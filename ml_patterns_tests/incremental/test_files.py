"""Finding landed files: what `glob` finds, but for what is hidden, is no file or is gone."""

import os
from glob import iglob
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_patterns.incremental.files import list_files, look

PATTERNS = (
    "*.parquet", "**/*.parquet", "**", "*", "*/*", "2026/*.csv*", "d=[0-1]/**/*.p?rquet",
    "a.parquet", "d=1/a.parquet", "nowhere/*.parquet", "**/d=*/*", "[!a]*",
)  # fmt: skip
FOLDERS = st.sampled_from(["", "2026/", "d=0/", "d=1/", "d=1/deep/", ".hidden/", "_spark/"])
NAMES = st.sampled_from(
    ["a.parquet", "b.PARQUET", "c.csv", "c.csv.gz", ".d.parquet", "_e.parquet", "f g[1].parquet"]
)


@given(files=st.sets(st.tuples(FOLDERS, NAMES)), pattern=st.sampled_from(PATTERNS))
def test_a_listing_is_what_glob_finds(
    tmp_path_factory: pytest.TempPathFactory, files: set[tuple[str, str]], pattern: str
) -> None:
    root = tmp_path_factory.mktemp("landed")
    for folder, name in files:
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / "link.parquet").symlink_to(root / "a.parquet")
    (root / "folder.parquet").mkdir()
    expected = [
        found
        for path in sorted(iglob(f"{root}/{pattern}", recursive=True))  # noqa: PTH207
        if not Path(path).name.startswith((".", "_")) and (found := look(path))
    ]
    assert list_files(f"{root}/{pattern}") == expected


def test_a_file_that_is_rewritten_or_replaced_has_another_tag(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("1")
    (first,) = list_files(f"{tmp_path}/*.parquet")
    os.utime(path, (1, 1))
    (touched,) = list_files(f"{tmp_path}/*.parquet")
    (tmp_path / "new").write_text("2")
    os.utime(tmp_path / "new", (1, 1))
    (tmp_path / "new").rename(path)
    (replaced,) = list_files(f"{tmp_path}/*.parquet")
    assert len({first.tag, touched.tag, replaced.tag}) == 3
    assert {first.size, touched.size, replaced.size} == {1}
