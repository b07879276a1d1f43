"""Adding documents in groups: to any index, and to a folder."""

# C chunks of a document, M memory tokens, D width, N rows of a group

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from openclara.errors import DataError
from openclara.index import database as db
from openclara.index.compaction import merge_small
from openclara.index.quantization import quantize
from openclara.index.reports import AddReport
from openclara.index.shards import write_shard
from openclara.index.writing import (
    content_sha256,
    find,
    framed_sha256,
    put_document,
    relabel,
)
from openclara.types import CompressedDocument, Document

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

    from openclara.index.database import Database
    from openclara.index.layout import Layout, Manifest
    from openclara.types import Compression, LatentSpec

GROUP_DOCUMENTS = 64
GROUP_BYTES = 32 * 2**20
GROUP_S = 5.0


class Adding(ABC):
    """One `add`: collects changes and commits them whenever a group is full."""

    def __init__(self, spec: LatentSpec, on_progress: Callable[[AddReport], None] | None) -> None:
        self.report = AddReport()
        self._spec = spec
        self._on_progress = on_progress
        self._group = Group()
        self._compressed: set[str] = set()

    def run(self, compressed: Iterable[CompressedDocument] | Compression) -> AddReport:
        """Add a stream; what was collected is committed also when it ends in an error.

        Raises:
            DataError: A document or its latents cannot be stored.
            OpenClaraError: A group could not be written.
        """
        skipping = getattr(compressed, "skipping", None)
        stream = compressed if skipping is None else skipping(self._skip)
        try:
            for item in stream:
                check_compressed(item, self._spec)
                self._put(item)
        finally:
            self._commit()
        return self.report

    @abstractmethod
    def _framed(self, document_id: str) -> str | None:
        """The `framed_sha256` of the stored document of that id; None where there is none."""

    @abstractmethod
    def _write(self, group: Group) -> AddReport:
        """Make a group part of the index, and say what it counted as.

        Raises:
            OpenClaraError: It could not be written; only this group is lost.
        """

    def _skip(self, document: Document) -> bool:
        """Whether a document need not be compressed; a new source or metadata is noted.

        Once a document of some id is to be compressed, so is every later one of that id: the
        earlier may not be stored yet, and the last must win.

        Raises:
            DataError: The document cannot be stored.
        """
        check_document(document)
        if document.id not in self._compressed:
            stored = self._framed(document.id)
            if stored == framed_sha256(document):
                self._put(document)
                return True
        self._compressed.add(document.id)
        return False

    def _put(self, change: CompressedDocument | Document) -> None:
        self._group.put(change)
        if self._group.full:
            self._commit()

    def _commit(self) -> None:
        group, self._group = self._group, Group()
        if not group.changes:
            return
        done, total = self._write(group), self.report
        self.report = AddReport(
            added=total.added + done.added,
            updated=total.updated + done.updated,
            unchanged=total.unchanged + done.unchanged,
            chunks=total.chunks + done.chunks,
        )
        if self._on_progress is not None:
            self._on_progress(self.report)


class FolderAdding(Adding):
    """An `add` to a folder: each group is one shard and one transaction."""

    def __init__(
        self,
        database: Database,
        layout: Layout,
        manifest: Manifest,
        on_progress: Callable[[AddReport], None] | None,
    ) -> None:
        super().__init__(manifest.spec, on_progress)
        self._database = database
        self._layout = layout
        self._manifest = manifest

    def _framed(self, document_id: str) -> str | None:
        with self._database.reading() as connection:
            known = find(connection, document_id)
        return None if known is None else known.framed_sha256

    def _write(self, group: Group) -> AddReport:
        return _write_group(self._database, self._layout, self._manifest, group)

    def _commit(self) -> None:
        before = self.report.chunks
        super()._commit()
        if self.report.chunks > before:
            merge_small(self._database, self._layout, self._manifest)


def check_document(document: Document) -> None:
    """Refuse what the database could not give back exactly.

    Raises:
        DataError: A field holds what cannot be stored.
    """
    for name in ("id", "title", "source"):
        value = getattr(document, name)
        if db.indexable(value) != value:
            raise DataError(
                f"document {document.id!r} has broken characters in its {name} {value!r}: "
                f"decode it as UTF-8, or replace them"
            )
    if not document.id:
        raise DataError("a document has an empty id: give each document a name of its own")
    for key, value in document.metadata.items():
        scalar = value is None or isinstance(value, str | int | float | bool)
        if (
            not isinstance(key, str)
            or not scalar
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            raise DataError(
                f"document {document.id!r} has metadata {key!r}: {value!r}, which cannot "
                f"be stored: use text, finite numbers, true, false or null"
            )


def check_compressed(item: CompressedDocument, spec: LatentSpec) -> None:
    """Refuse latents or chunks that do not fit the index or the text.

    Raises:
        DataError: A shape, a span or a value is wrong.
    """
    check_document(item.document)
    name, length = item.document.id, len(item.document.text)
    expected = (len(item.chunks), spec.n_memory, spec.width)
    if tuple(item.latents.shape) != expected:
        raise DataError(
            f"document {name!r} has latents of shape {tuple(item.latents.shape)} where its "
            f"chunks and the index need {expected}: compress it with the model of this index"
        )
    # bfloat16 is what is stored or what scales it: what it rounds to infinity is lost too.
    if not torch.isfinite(item.latents.to(torch.bfloat16)).all():
        raise DataError(
            f"document {name!r} has latents that are not finite: "
            f"compress it again in float32 or bfloat16"
        )
    for chunk in item.chunks:
        if not 0 <= chunk.start < chunk.end <= length:
            raise DataError(
                f"document {name!r} has a chunk from {chunk.start} to {chunk.end} and {length} "
                f"characters of text: a chunk lies inside the text"
            )


@dataclass(slots=True)
class Group:
    """Changes that wait to be committed together; the last one of each document counts.

    Attributes:
        changes: By document id; a bare document keeps its latents and gets a new source or
            metadata.
        latent_bytes: Size of the waiting latents.
        started: When the group was begun, by the monotonic clock, in seconds.
    """

    changes: dict[str, CompressedDocument | Document] = field(default_factory=dict)
    latent_bytes: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def full(self) -> bool:
        """Whether it is time to commit."""
        return (
            len(self.changes) >= GROUP_DOCUMENTS
            or self.latent_bytes >= GROUP_BYTES
            or time.monotonic() - self.started >= GROUP_S
        )

    def put(self, change: CompressedDocument | Document) -> None:
        """Add or replace the change of one document."""
        name = change.id if isinstance(change, Document) else change.document.id
        earlier = self.changes.pop(name, None)
        if isinstance(earlier, CompressedDocument):
            self.latent_bytes -= earlier.latents.nbytes
        if isinstance(change, CompressedDocument):
            self.latent_bytes += change.latents.nbytes
        self.changes[name] = change


@dataclass(frozen=True, slots=True)
class Plan:
    """A group, sorted into what is to be done.

    Attributes:
        written: New or changed titles and texts, with latents.
        relabelled: Documents whose title, text and latents stay.
        report: What the group counts as.
    """

    written: Sequence[CompressedDocument]
    relabelled: Sequence[Document]
    report: AddReport


def _plan(connection: sqlite3.Connection, group: Group) -> Plan:
    """Compare a group with what is stored."""
    written: list[CompressedDocument] = []
    relabelled: list[Document] = []
    added = unchanged = 0
    for change in group.changes.values():
        document = change if isinstance(change, Document) else change.document
        known = find(connection, document.id)
        if known and known.content_sha256 == content_sha256(document):
            unchanged += 1
        elif known and known.framed_sha256 == framed_sha256(document):
            relabelled.append(document)
        elif isinstance(change, CompressedDocument):
            added += known is None
            written.append(change)
        else:
            raise AssertionError(
                f"{document.id!r} lost its latents although this is the only writer"
            )
    updated = len(written) - added + len(relabelled)
    chunks = sum(len(item.chunks) for item in written)
    return Plan(written, relabelled, AddReport(added, updated, unchanged, chunks))


def _write_group(database: Database, layout: Layout, manifest: Manifest, group: Group) -> AddReport:
    """Make a group part of the index: its shard first, then the transaction that says so.

    Returns:
        What the group counted as.

    Raises:
        OpenClaraError: The disk is full or read-only; the group is lost, nothing else.
    """
    with database.reading() as connection:
        todo = _plan(connection, group)
        key = db.next_shard_key(connection)
    if not todo.written and not todo.relabelled:
        return todo.report
    record = None
    if todo.report.chunks:
        latents_NMD = torch.cat([item.latents.detach().cpu().float() for item in todo.written])
        with db.explained(layout):
            record = write_shard(layout, quantize(latents_NMD, manifest.quantization), key)
    with database.writing() as connection:
        if record is not None:
            db.record_shard(connection, record)
        row = 0
        for item in todo.written:
            put_document(connection, item.document, item.chunks, shard=key, first_row=row)
            row += len(item.chunks)
        for document in todo.relabelled:
            relabel(connection, document)
    return todo.report
