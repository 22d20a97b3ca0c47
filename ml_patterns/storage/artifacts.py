"""The artifact store: LightGBM text and JSON card, addressed by their content.

Belongs here: writing and verifying artifacts. Does not: which version is the champion
(`registry/`).

No pickle is ever read or written. An artifact's address is the SHA-256 of its model text and card,
so writing is idempotent and reading detects a swapped or truncated file.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from upath import UPath

from ml_patterns.errors import ArtifactError
from ml_patterns.storage.card import ModelCard

_MODEL = "model.txt"
_CARD = "card.json"
_ADDRESS = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Artifact:
    """A model as it lies in the store."""

    address: str
    model_text: str
    card: ModelCard


def address_of(model_text: str, card_json: str) -> str:
    """SHA-256 over model text and card (hex, 64 characters)."""
    digest = hashlib.sha256(model_text.encode())
    digest.update(b"\0")
    digest.update(card_json.encode())
    return digest.hexdigest()


class ArtifactStore:
    """Artifacts below one folder, local or any fsspec URL."""

    def __init__(self, root: str) -> None:
        self._root = UPath(root)

    def put(self, model_text: str, card: ModelCard) -> str:
        """Writes an artifact and returns its address; writing it again changes nothing."""
        card_json = card.model_dump_json()
        address = address_of(model_text, card_json)
        self._write(address, model_text, card_json)
        return address

    def _write(self, address: str, model_text: str, card_json: str) -> None:
        folder = self._folder(address)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in ((_MODEL, model_text), (_CARD, card_json)):
            # The card comes last: a reader that finds it finds a complete artifact.
            partial = folder / f".{name}.{os.getpid()}"
            partial.write_bytes(text.encode())
            partial.rename(folder / name)

    def get(self, address: str) -> Artifact:
        """Reads an artifact and verifies it.

        Raises:
            ArtifactError: it is missing, or its content no longer fits its address.
        """
        model_text, card_json = self.texts(address)
        return Artifact(address, model_text, ModelCard.model_validate_json(card_json))

    def texts(self, address: str) -> tuple[str, str]:
        """Model text and card as they were written, verified. Errors as for `get`."""
        if not _ADDRESS.fullmatch(address):  # nothing outside of the store is ever read
            raise ArtifactError(f"artifact {address[:80]!r} is missing: that is no address of one")
        folder = self._folder(address)
        try:
            model_text = (folder / _MODEL).read_bytes().decode()
            card_json = (folder / _CARD).read_bytes().decode()
        except FileNotFoundError as error:
            raise ArtifactError(f"artifact {address[:12]} is missing below {self._root}") from error
        except UnicodeDecodeError as error:
            raise ArtifactError(f"artifact {address[:12]} is not text: {folder}") from error
        if address_of(model_text, card_json) != address:
            raise ArtifactError(f"artifact {address[:12]} was altered: {folder}")
        return model_text, card_json

    def copy_from(self, other: "ArtifactStore", address: str) -> None:
        """Copies an artifact of another store, byte for byte. Errors as for `get`, of the other."""
        self._write(address, *other.texts(address))

    def written(self) -> Iterator[tuple[str, datetime]]:
        """Address of everything in the store, whole or not, and when it was last written (UTC)."""
        if not self._root.is_dir():
            return
        for group in sorted(self._root.iterdir(), key=lambda path: path.name):
            for folder in sorted(group.iterdir(), key=lambda path: path.name):
                if _ADDRESS.fullmatch(folder.name):
                    yield folder.name, _written_at(folder)

    def remove(self, address: str) -> None:
        """Takes an artifact away; the caller knows that nothing refers to it."""
        folder = self._folder(address)
        # The card goes first: what has one is complete.
        for file in sorted(folder.iterdir(), key=lambda path: path.name != _CARD):
            file.unlink()
        folder.rmdir()

    def _folder(self, address: str) -> UPath:
        return self._root / address[:2] / address


def _written_at(folder: UPath) -> datetime:
    """When an artifact was last written; now, where the store does not say."""
    times = [path.stat().st_mtime for path in (*folder.iterdir(), folder)]
    known = [time for time in times if time]
    return datetime.fromtimestamp(max(known), UTC) if known else datetime.now(UTC)
