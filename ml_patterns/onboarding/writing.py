"""The three files of a pipeline, written from a proposal.

Belongs here: `defs.yaml` as text, and writing all three where none are. Does not: what they should
say (`proposal.py`), the SQL (`starting_sql.py`).
"""

import json
import re
from pathlib import Path

from ml_patterns.errors import SettingsError
from ml_patterns.onboarding.proposal import Proposal
from ml_patterns.onboarding.starting_sql import aggregates_sql, features_sql, label_columns

TYPE = "ml_patterns.EventModelPipeline"
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./*-]*")
_NUMBER_OR_DURATION = re.compile(r"\d+[smhd]?")
_WORDS = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}


def write(proposal: Proposal, folder: Path) -> list[Path]:
    """Writes the files of a pipeline.

    Raises:
        SettingsError: the folder holds one of them already; nothing is written.
    """
    texts = {
        "defs.yaml": settings_yaml(proposal),
        "aggregates.sql": aggregates_sql(proposal),
        "features.sql": features_sql(proposal),
    }
    present = [name for name in texts if (folder / name).exists()]
    if present:
        raise SettingsError(
            f"{folder} holds {', '.join(present)} already, and nothing is overwritten; choose "
            "another name, or remove what you do not need"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in texts.items():
        (folder / name).write_text(text)
        written.append(folder / name)
    return written


def settings_yaml(proposal: Proposal) -> str:
    """`defs.yaml`, every guess with its reason."""

    def line(setting: str) -> str:
        guess = proposal.guesses[setting]
        return f"    {setting}: {_scalar(guess.value)} # {guess.why}"

    return "\n".join(
        [
            f"# {proposal.read}; what was guessed says why. Yours to change.",
            "# Every setting that is not here has its default; `dg docs serve` lists them all.",
            "",
            f"type: {TYPE}",
            "",
            "attributes:",
            f"  name: {proposal.name}",
            "",
            "  events:",
            f"    path: {_scalar(proposal.path)}",
            *map(line, ("id", "time", "version", "region", "grain", "start", "label_delay",
                        "grace")),
            "",
            "  aggregates:",
            "    sql: aggregates.sql",
            line("window"),
            *([f"    # All of them: {proposal.late}."] if proposal.late else []),
            f"    label_columns: [{', '.join(label_columns(proposal))}]",
            "",
            "  features:",
            "    sql: features.sql",
            "",
        ]
    )  # fmt: skip


def _scalar(value: str) -> str:
    """A YAML scalar; in quotes wherever it could be read as something else."""
    plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return value if plain or _NUMBER_OR_DURATION.fullmatch(value) else json.dumps(value)
