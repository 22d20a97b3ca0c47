"""The commands as a person types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ml_patterns_tests.maintenance.conftest import House, house_in

PROJECT = Path(__file__).parents[2]


def run(house: House, *command: str) -> subprocess.CompletedProcess[str]:
    """`ml-patterns` on an installation."""
    place = house.installation
    return subprocess.run(
        [str(Path(sys.executable).parent / "ml-patterns"), *command],
        cwd=PROJECT,
        env={
            **os.environ,
            "ML_PATTERNS_WAREHOUSE": str(place.warehouse),
            "ML_PATTERNS_STATE_URL": place.state_url,
            "ML_PATTERNS_ARTIFACTS": place.artifacts,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_backup_and_restore(tmp_path: Path) -> None:
    here, there = house_in(tmp_path / "here"), house_in(tmp_path / "there")
    here.deploy("eu", 1)
    here.write(5)
    backup = str(tmp_path / "backup")
    done = run(here, "backup", backup, "--json")
    assert done.returncode == 0, done.stderr
    assert {row["what"]: row["count"] for row in json.loads(done.stdout)}["artifacts"] == 1
    done = run(there, "restore", backup)
    assert done.returncode == 0, done.stderr
    assert "the same hash" in done.stdout
    done = run(there, "restore", backup)
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_backup_that_lacks_an_artifact_says_so(tmp_path: Path) -> None:
    here = house_in(tmp_path / "here")
    here.store.remove(here.deploy("eu", 1).artifact)
    done = run(here, "backup", str(tmp_path / "backup"))
    assert done.returncode == 1
    assert "1 artifacts that the registry refers to are missing" in done.stderr


def test_an_installation_that_was_never_used_has_nothing_to_back_up(tmp_path: Path) -> None:
    done = run(house_in(tmp_path / "here"), "backup", str(tmp_path / "backup"))
    assert done.returncode == 1
    assert "there is no operational database" in done.stderr
    assert not (tmp_path / "backup").exists()


def test_a_dry_run_of_prune_only_says_what_would_go(tmp_path: Path) -> None:
    here = house_in(tmp_path / "here")
    version = here.deploy("eu", 1)
    orphan = here.store.put("nobody registered this\n", here.store.get(version.artifact).card)
    for path in (tmp_path / "here" / "artifacts").rglob(f"{orphan}/*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        os.utime(path.parent, (1_000_000_000, 1_000_000_000))
    for options, column, left in ((["--dry-run"], "would go", 2), ([], "gone", 1)):
        done = run(here, "prune", *options, "--json")
        assert done.returncode == 0, done.stderr
        found = {row["what"]: row[column] for row in json.loads(done.stdout)}
        assert found["artifacts"] == 1
        assert len(list(here.store.written())) == left
