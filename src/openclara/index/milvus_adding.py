"""Adding documents to Milvus: the rows of a group, then those that say that they are there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from openclara.errors import IndexBusy
from openclara.index.adding import Adding
from openclara.index.milvus_rows import Stored, latents_of, name_of, pieces_of
from openclara.index.quantization import dequantize, quantize
from openclara.index.reports import AddReport
from openclara.index.writing import content_sha256, framed_sha256
from openclara.types import CompressedDocument, Document

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openclara.index.adding import Group
    from openclara.index.layout import Manifest
    from openclara.index.milvus_collections import Collections
    from openclara.types import Chunk


class MilvusAdding(Adding):
    """An `add` to an index in Milvus."""

    def __init__(
        self,
        rows: Collections,
        manifest: Manifest,
        on_progress: Callable[[AddReport], None] | None,
    ) -> None:
        super().__init__(manifest.spec, on_progress)
        self._rows = rows
        self._manifest = manifest

    def _framed(self, document_id: str) -> str | None:
        name = name_of(document_id)
        stored = self._rows.stored([name]).get(name)
        return None if stored is None else stored.framed

    def _write(self, group: Group) -> AddReport:
        changes = {name_of(document_id): change for document_id, change in group.changes.items()}
        known = self._rows.stored(list(changes))
        added = updated = unchanged = n_chunks = 0
        latents: list[Any] = []
        pieces: list[Any] = []
        rows: list[Stored] = []
        for version, (name, change) in enumerate(changes.items(), start=time.time_ns()):
            document = change if isinstance(change, Document) else change.document
            before, framed = known.get(name), framed_sha256(document)
            content = content_sha256(document)
            if before is not None and before.content == content:
                unchanged += 1
                continue
            chunks: Sequence[Chunk]
            if before is not None and before.framed == framed:
                latents_version, (_, chunks) = before.latents, self._rows.read([before])[name]
            elif isinstance(change, CompressedDocument):
                latents_version, chunks = version, change.chunks
                latents += latents_of(name, version, self._rounded(change))
                n_chunks += len(chunks)
            else:
                raise IndexBusy(
                    f"another process changed document {document.id!r} while it was added: wait "
                    "until it is done and run again"
                )
            added, updated = added + (before is None), updated + (before is not None)
            parts = pieces_of(name, version, document, chunks)
            pieces += parts
            ordinal = version if before is None else before.ordinal
            rows.append(
                Stored(
                    name, ordinal, version, latents_version, len(parts), len(chunks), framed,
                    content,
                )
            )  # fmt: skip
        self._rows.put(latents, pieces, rows)
        for row in rows:
            if (before := known.get(row.name)) is not None:
                self._rows.sweep(row.name, "pieces", before.version)
                if before.latents != row.latents:
                    self._rows.sweep(row.name, "latents", before.latents)
        return AddReport(added, updated, unchanged, n_chunks)

    def _rounded(self, item: CompressedDocument) -> CompressedDocument:
        """The latents as a folder of the same quantisation would give them back."""
        if not len(item.chunks):
            return item
        quantization = self._manifest.quantization
        stored = quantize(item.latents.detach().cpu().float(), quantization)
        latents_CMD = dequantize(stored, quantization, width=self._spec.width)
        return CompressedDocument(item.document, item.chunks, latents_CMD)
