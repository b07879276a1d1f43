"""The three collections of an index in Milvus, read and written."""

# V vectors, M memory tokens, D width

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

from openclara.errors import FormatError
from openclara.index.addresses import shown
from openclara.index.layout import Manifest
from openclara.index.milvus_connection import explained
from openclara.index.milvus_rows import (
    BATCH,
    STORED_FIELDS,
    Stored,
    document_of,
    latent_key,
    stacked,
)
from openclara.types import LatentSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from openclara.types import Chunk, Document

LARGEST_LIMIT = 16_384
"""Rows that Milvus gives for one vector."""

Place = tuple[Stored, int]
"""A document and which of its chunks."""


class Collections:
    """Rows by key.

    Args:
        client: Of `connect`.
        name: Of the index.
        address: For messages.
    """

    def __init__(self, client: Any, name: str, address: str) -> None:
        self._client = client
        self._name = name
        self._address = address

    def close(self) -> None:
        """Release the connection."""
        self._client.close()

    def manifest(self) -> Manifest:
        """What every latent of the index shares.

        Raises:
            FormatError: The index was never finished.
        """
        found = self._get("pieces", ["manifest"], ["part"])
        if not found:
            raise FormatError(
                f"the index {self._name!r} at milvus:{shown(self._address)} is not whole, its "
                f"making was interrupted: drop the collections {self._name}_*, or use another "
                "address"
            )
        content = json.loads(found[0]["part"])
        return Manifest(LatentSpec(**content["spec"]), content["quantization"])

    def put(self, latents: Sequence[Any], pieces: Sequence[Any], rows: Sequence[Stored]) -> None:
        """Write documents: what they consist of first, then the rows that say so."""
        with explained(self._address):
            for collection, new in (("latents", latents), ("pieces", pieces)):
                for start in range(0, len(new), BATCH):
                    self._client.insert(f"{self._name}_{collection}", new[start : start + BATCH])
            if rows:
                self._client.upsert(f"{self._name}_documents", [row.row() for row in rows])

    def drop(self, known: Sequence[Stored]) -> None:
        """Remove documents: the rows first, then what they consisted of."""
        if known:
            with explained(self._address):
                self._client.delete(f"{self._name}_documents", ids=[one.name for one in known])
        for one in known:
            self.sweep(one.name, "pieces", one.version)
            self.sweep(one.name, "latents", one.latents)

    def nominate(self, vectors_VD: Tensor, n_memory: int, limit: int) -> list[Place]:
        """Chunks with a latent near one of some vectors."""
        with explained(self._address):
            found = self._client.search(
                f"{self._name}_latents",
                data=vectors_VD.tolist(),
                limit=min(limit, LARGEST_LIMIT),
                filter=f"token < {n_memory}",
                output_fields=["name", "version", "chunk"],
            )
        spots = {
            (hit["entity"]["name"], hit["entity"]["version"], hit["entity"]["chunk"])
            for of_one in found
            for hit in of_one
        }
        known = self.stored(sorted({name for name, _, _ in spots}))
        return [
            (known[name], chunk)
            for name, version, chunk in sorted(spots)
            if name in known and known[name].latents == version
        ]

    def sweep(self, name: str, collection: str, version: int) -> None:
        """Remove the pieces or latents of a version that no document row names any more."""
        with explained(self._address):
            self._client.delete(
                f"{self._name}_{collection}", filter=f'name == "{name}" and version == {version}'
            )

    def stored(self, names: Sequence[str]) -> dict[str, Stored]:
        """The document rows of those names that there are."""
        found = self._get("documents", names, STORED_FIELDS)
        return {row["name"]: Stored(**{key: row[key] for key in STORED_FIELDS}) for row in found}

    def all(self) -> Iterator[Stored]:
        """Every document row."""
        with explained(self._address):
            rows = self._client.query_iterator(
                f"{self._name}_documents", batch_size=BATCH, filter="ordinal >= 0",
                output_fields=STORED_FIELDS,
            )  # fmt: skip
            with closing(rows):
                while page := rows.next():
                    yield from (Stored(**{key: row[key] for key in STORED_FIELDS}) for row in page)

    def read(self, known: Sequence[Stored]) -> dict[str, tuple[Document, list[Chunk]]]:
        """Documents and their chunks, by name."""
        keys = {
            one.name: [f"{one.name}:{one.version}:{number}" for number in range(one.pieces)]
            for one in known
        }
        found = self._get("pieces", [key for own in keys.values() for key in own], ["key", "part"])
        parts = {row["key"]: row["part"] for row in found}
        return {name: document_of([parts[key] for key in own]) for name, own in keys.items()}

    def latents(self, places: Sequence[Place], n_memory: int) -> dict[Place, Tensor]:
        """(M, D) of each chunk."""
        keys = {
            (stored, chunk): [
                latent_key(stored.name, stored.latents, chunk, token) for token in range(n_memory)
            ]
            for stored, chunk in places
        }
        wanted = [key for own in keys.values() for key in own]
        rows = {row["key"]: row for row in self._get("latents", wanted, ["key", "vector"])}
        return {place: stacked([rows[key] for key in own]) for place, own in keys.items()}

    def _get(self, collection: str, keys: Sequence[str], fields: Sequence[str]) -> list[Any]:
        rows: list[Any] = []
        for start in range(0, len(keys), BATCH):
            batch = list(keys[start : start + BATCH])
            with explained(self._address):
                rows += self._client.get(
                    f"{self._name}_{collection}", ids=batch, output_fields=fields
                )
        return rows
