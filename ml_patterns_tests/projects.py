"""Small projects of their own, as a user of the package has them.

Belongs here: the folder that Dagster loads, with one pipeline. Does not: what lands in it.
"""

from pathlib import Path

PYPROJECT = """\
[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "{module}"
"""

DEFINITIONS = """\
from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""


def write_project(
    root: Path, module: str, pipeline: str, *, defs: str, aggregates: str, features: str
) -> Path:
    """Writes a project with one pipeline and an empty folder `landing`.

    Args:
        module: name of its package; a process that loads several projects needs several names.
        defs: text of `defs.yaml`; the other two of the SQL files.

    Returns:
        The folder of its pipeline.
    """
    folder = root / module / "defs" / pipeline
    folder.mkdir(parents=True)
    (root / "landing").mkdir()
    (root / "pyproject.toml").write_text(PYPROJECT.format(module=module))
    (root / module / "__init__.py").touch()
    (root / module / "definitions.py").write_text(DEFINITIONS)
    (folder / "defs.yaml").write_text(defs)
    (folder / "aggregates.sql").write_text(aggregates)
    (folder / "features.sql").write_text(features)
    return folder
