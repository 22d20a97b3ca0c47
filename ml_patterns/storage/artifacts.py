"""The artifact store: LightGBM text and JSON card, addressed by their content.

Belongs here: writing and verifying artifacts. Does not: which version is the champion
(`registry/`).

No pickle is ever read or written. An artifact's address is the SHA-256 of its model text and card,
so writing is idempotent and reading detects a swapped or truncated file.
"""

import hashlib
import os
from dataclasses import dataclass

from upath import UPath

from ml_patterns.errors import ArtifactError
from ml_patterns.storage.card import ModelCard

_MODEL = "model.txt"
_CARD = "card.json"


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
        folder = self._folder(address)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in ((_MODEL, model_text), (_CARD, card_json)):
            # The card comes last: a reader that finds it finds a complete artifact.
            partial = folder / f".{name}.{os.getpid()}"
            partial.write_bytes(text.encode())
            partial.rename(folder / name)
        return address

    def get(self, address: str) -> Artifact:
        """Reads an artifact and verifies it.

        Raises:
            ArtifactError: it is missing, or its content no longer fits its address.
        """
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
        return Artifact(address, model_text, ModelCard.model_validate_json(card_json))

    def _folder(self, address: str) -> UPath:
        return self._root / address[:2] / address
