"""`LatentIndex`: documents kept with the latents and words they are found by."""

# Q questions, P memory tokens of a prefix, D width, E = P * D flattened

from __future__ import annotations

import itertools
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from openclara.errors import ConfigError, DataError
from openclara.index import database as db
from openclara.index.adding import FolderAdding
from openclara.index.coarse.building import keep_up
from openclara.index.coarse.records import segment_records
from openclara.index.coarse.settings import EXACT, Coarse
from openclara.index.compaction import compact
from openclara.index.creation import create, held, writer_lock
from openclara.index.database import Database
from openclara.index.filters import condition
from openclara.index.layout import Layout, Manifest, read_manifest
from openclara.index.quantization import bytes_per_chunk
from openclara.index.reports import CompactReport, IndexInfo, VerifyReport
from openclara.index.search import Search, stretches
from openclara.index.verification import examine, mend
from openclara.index.views import ATTEMPTS, Views
from openclara.index.writing import delete, find, framed_sha256, remove_orphans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from torch import Tensor

    from openclara.index.layout import Quantization
    from openclara.index.reports import AddReport
    from openclara.index.verification import Findings
    from openclara.types import (
        CompressedDocument,
        Compression,
        Document,
        Hit,
        LatentSpec,
        Mode,
    )

PAGE = 256
"""Documents read at once while listing."""


class LatentIndex:
    """A folder of documents, their latents and their words.

    One process writes at a time, any number read. What a write has reported is on the disk: a kill
    at any instant loses at most the group of documents that was under way. Reading is thread-safe,
    and sees what other processes changed at the next call.

    Example:
        with LatentIndex.open("my.index", clara.latent_spec) as index:
            index.add(clara.compress(documents))
    """

    def __init__(self, layout: Layout, manifest: Manifest, coarse: Coarse) -> None:
        """Use `LatentIndex.open`."""
        self._coarse = coarse
        self._layout = layout
        self._manifest = manifest
        self._database = Database(layout)
        self._lock = writer_lock(layout)
        self._views = Views(layout, manifest)

    @classmethod
    def open(
        cls,
        path: str | Path,
        spec: LatentSpec | None = None,
        *,
        quantization: Quantization | None = None,
        coarse: Coarse = Coarse(),  # noqa: B008 - frozen
    ) -> Self:
        """Open an index, or make one where there is none.

        Args:
            path: The folder.
            spec: What the model makes (`clara.latent_spec`); None opens an existing index as it is.
            quantization: How to store latents; None means bf16 for a new index, any for an old.
            coarse: When chunks are nominated by short codes before they are scored, and how many.

        Raises:
            FormatError: There is no index and no spec, or what is there is damaged or no index.
            IndexMismatch: The index was made by another model or with another storage.
            IndexBusy: Another process is making it this moment.
            OpenClaraError: The folder cannot be written.
        """
        layout = Layout(Path(path))
        if spec is not None and not layout.manifest.exists():
            create(layout, Manifest(spec, quantization or "bf16"))
        manifest = read_manifest(layout)
        manifest.check(spec, quantization, layout.folder)
        index = cls(layout, manifest, coarse)
        try:
            len(index)
        except BaseException:
            index.close()
            raise
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release files and connections; calling it again does nothing."""
        self._database.close()
        self._views.forget()

    @property
    def path(self) -> Path:
        """The folder."""
        return self._layout.folder

    @property
    def default_mode(self) -> Mode:
        """How `Clara` searches it where no mode is given."""
        return "hybrid"

    @property
    def spec(self) -> LatentSpec:
        """What the latents were made with."""
        return self._manifest.spec

    @property
    def quantization(self) -> Quantization:
        """How the latents are stored."""
        return self._manifest.quantization

    def __len__(self) -> int:
        """Documents held."""
        return self._count("documents")

    def __bool__(self) -> bool:
        """True also for an index without documents."""
        return True

    @property
    def n_chunks(self) -> int:
        """Chunks held."""
        return self._count("chunks")

    def add(
        self,
        compressed: Iterable[CompressedDocument] | Compression,
        *,
        on_progress: Callable[[AddReport], None] | None = None,
    ) -> AddReport:
        """Add documents, replacing those whose id is known.

        Documents are committed in groups, also when the stream ends in an error: whatever was
        reported is kept, and adding the same stream again goes on from there. Where the stream can
        skip, documents held already are not compressed. The model reads the text under its title:
        where either changed, the latents are replaced; a new source or metadata keeps them.

        Args:
            compressed: `clara.compress(...)`, or compressed documents from elsewhere. Of several
                with one id the last counts.
            on_progress: Called after each commit with what is committed so far.

        Returns:
            What was done.

        Raises:
            DataError: A document or its latents cannot be stored.
            IndexBusy: Another process is writing.
            OpenClaraError: The disk is full or the folder cannot be written.
        """
        with self._writing():
            adding = FolderAdding(self._database, self._layout, self._manifest, on_progress)
            report = adding.run(compressed)
            self._keep_up()
            return report

    def holds(self, document: Document) -> bool:
        """Whether the latents of this very title and text are stored under this id."""
        with self._database.reading() as connection:
            known = find(connection, document.id)
        return known is not None and known.framed_sha256 == framed_sha256(document)

    def get(self, document_id: str) -> Document:
        """The document of that id.

        Raises:
            DataError: There is none.
        """
        query = f"SELECT {db.DOCUMENT_COLUMNS} FROM documents WHERE key = ?"
        with self._database.reading() as connection:
            known = find(connection, document_id)
            if known is not None:
                return db.to_document(connection.execute(query, (known.key,)).fetchone())
        return self._missing(document_id)

    def _missing(self, document_id: str) -> NoReturn:
        raise DataError(
            f"the index {self.path} has no document {document_id!r}: list the ids it has"
        )

    def hits(self, ids: Sequence[str], *, n_memory: int | None = None) -> list[list[Hit]]:
        """Every stretch of some documents with its latents: to answer from documents by name.

        Args:
            ids: Documents, in the order wanted.
            n_memory: Only the first so many latents of each stretch; all that are stored if None.

        Returns:
            For each document its stretches in reading order, with score 0.

        Raises:
            DataError: There is no document of an id.
            ConfigError: `n_memory` is out of range.
            FormatError: The index is damaged.
        """
        stored = self.spec.n_memory
        if n_memory is not None and not 1 <= n_memory <= stored:
            raise ConfigError(f"n_memory is {n_memory}, this index keeps {stored}: use 1 to that")

        def read() -> list[list[Hit]]:
            with self._database.reading() as connection:
                view = self._views.at(connection)
                found = [stretches(connection, view, name, n_memory or stored) for name in ids]
            return [
                hits if hits is not None else self._missing(name)
                for name, hits in zip(ids, found, strict=True)
            ]

        return self._views.retrying(read)

    def __contains__(self, document_id: object) -> bool:
        """Whether there is a document of that id."""
        with self._database.reading() as connection:
            return isinstance(document_id, str) and find(connection, document_id) is not None

    def count(self, where: Sequence[str] = ()) -> int:
        """How many documents all filters hold for.

        Raises:
            ConfigError: A filter cannot be read.
        """
        sql, parameters = condition(where)
        with self._database.reading() as connection:
            row = connection.execute(f"SELECT count(*) FROM documents WHERE {sql}", parameters)
            counted: int = row.fetchone()[0]
        return counted

    def documents(
        self, *, where: Sequence[str] = (), limit: int | None = None, offset: int = 0
    ) -> Iterator[Document]:
        """The documents, in the order their ids were first added.

        Args:
            where: Filters such as `year>=2020` that must all hold.
            limit: How many at most.
            offset: How many to leave out first.

        Raises:
            ConfigError: A filter cannot be read.
        """
        return itertools.islice(self._listed(*condition(where), offset=offset), limit)

    def delete(self, ids: Iterable[str] = (), *, where: Sequence[str] = ()) -> int:
        """Remove the named documents, and those that every filter holds for.

        Args:
            ids: Documents to remove; unknown ids are passed over.
            where: Filters such as `source~old/`; none removes none.

        Returns:
            How many were removed. The space of their latents is won back by `compact`.

        Raises:
            ConfigError: A filter cannot be read.
            IndexBusy: Another process is writing.
        """
        sql, parameters = condition(where)
        with self._writing():
            with self._database.writing() as connection:
                found = (find(connection, name) for name in ids)
                keys = {known.key for known in found if known}
                if where:
                    rows = connection.execute(f"SELECT key FROM documents WHERE {sql}", parameters)
                    keys.update(key for (key,) in rows)
                removed = delete(connection, sorted(keys))
            self._keep_up()
            return removed

    def compact(self) -> CompactReport:
        """Rewrite latents without dead rows and in few files, and shrink the database.

        Raises:
            FormatError: A shard is damaged.
            IndexBusy: Another process is writing.
            OpenClaraError: The disk is full; the index is as before.
        """
        with self._writing():
            before = self.info()
            compact(self._database, self._layout, self._manifest)
            self._keep_up(thorough=True)
            after = self.info()
        return CompactReport(
            removed_rows=before.dead_rows - after.dead_rows,
            shards_before=before.shards,
            shards_after=after.shards,
            freed_bytes=before.total_bytes - after.total_bytes,
        )

    def verify(self, *, repair: bool = False) -> VerifyReport:
        """Read everything and compare it with what was recorded when it was written.

        Args:
            repair: Drop the documents whose latents, title or text are damaged, so that adding
                their files again compresses only those, and rebuild the word index if it is wrong.

        Raises:
            FormatError: The database cannot be read at all.
            IndexBusy: A repair is asked for while another process writes.
        """
        if repair:
            return self._repair()
        return VerifyReport(tuple(self._examined().problems))

    def info(self) -> IndexInfo:
        """The index in numbers."""
        spec = self.spec
        with self._database.reading() as connection:
            records, segments = db.shard_records(connection), segment_records(connection)
            documents, chunks, updated = connection.execute(
                "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM chunks), updated "
                "FROM state"
            ).fetchone()
        sizes = [path.stat().st_size for path in self._layout.database_files() if path.exists()]
        return IndexInfo(
            documents=documents,
            chunks=chunks,
            dead_rows=sum(record.rows for record in records) - chunks,
            shards=len(records),
            latent_bytes=sum(record.bytes for record in records),
            database_bytes=sum(sizes),
            coarse_chunks=sum(segment.chunks for segment in segments),
            coarse_segments=len(segments),
            coarse_bytes=sum(segment.bytes for segment in segments),
            bytes_per_chunk=bytes_per_chunk(
                self.quantization, n_memory=spec.n_memory, width=spec.width
            ),
            spec=spec,
            quantization=self.quantization,
            updated=updated,
        )

    def search(
        self,
        questions: Sequence[str],
        latents: Tensor | None,
        *,
        k: int,
        mode: Mode = "hybrid",
        where: Sequence[str] = (),
        n_memory: int | None = None,
        pool: int = 100,
        latent_weight: float = 0.5,
        with_latents: bool = True,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """Find the chunks that answer each question best.

        Args:
            questions: Q texts.
            latents: (Q, P, D) latents of the questions, P up to `spec.n_memory`. Under a flat score
                fewer compare and return the first P memory tokens only; under a late one each has
                its weight as its length (`Clara.reason` makes them so). None is enough for a
                lexical search.
            k: Hits for each question; fewer where the index has fewer. A lexical search finds only
                chunks that share a word with the question.
            mode: By cosine of the latents, by BM25 of title and text, or by both: `pool` candidates
                of each are ordered by reciprocal rank fusion.
            where: Filters such as `lang=en` that the documents must all satisfy.
            n_memory: Latents of a chunk that are compared and returned; under a flat score as many
                as a question has, under a late one all of them if None.
            pool: Candidates from each side in a hybrid search; at least k are taken.
            latent_weight: Part of the latents in the fusion, 0 to 1; BM25 has the rest.
            with_latents: Whether hits carry their latents.
            exact: Score every chunk, also in an index large enough for its coarse stage.

        Returns:
            For each question its hits, best first; equal ones in the order they were added.

        Raises:
            ConfigError: An argument does not fit, or a filter cannot be read.
            DataError: A question is empty.
            FormatError: The index is damaged.
        """
        search = Search.checked(
            self.spec,
            questions,
            latents,
            n_memory=n_memory,
            k=k,
            mode=mode,
            pool=pool,
            latent_weight=latent_weight,
            with_latents=with_latents,
            coarse=EXACT if exact else self._coarse,
        )
        sql, parameters = condition(where)

        def read() -> list[list[Hit]]:
            with self._database.reading() as connection:
                view = self._views.at(connection)
                return search.run(connection, view, (sql, parameters) if where else None)

        return self._views.retrying(read)

    def _listed(
        self, sql: str, parameters: list[str | int | float], *, offset: int
    ) -> Iterator[Document]:
        query = (
            f"SELECT documents.key, {db.DOCUMENT_COLUMNS} FROM documents "
            f"WHERE ({sql}) AND documents.key > ? ORDER BY documents.key LIMIT ? OFFSET ?"
        )
        last = 0
        while True:
            # One page for each transaction: a consumer that stops half way holds nothing open.
            with self._database.reading() as connection:
                rows = connection.execute(query, (*parameters, last, PAGE, offset)).fetchall()
            yield from (db.to_document(row[1:]) for row in rows)
            if len(rows) < PAGE:
                return
            last, offset = rows[-1][0], 0

    def _examined(self) -> Findings:
        for _ in range(ATTEMPTS):
            with self._database.reading() as connection:
                generation = db.generation(connection)
                findings = examine(connection, self._layout)
            with self._database.reading() as connection:
                # Files of a moment that has passed may rightly be gone.
                gone = findings.shards or findings.segments
                if not gone or db.generation(connection) == generation:
                    break
        return findings

    def _repair(self) -> VerifyReport:
        with self._writing():
            with self._database.reading() as connection:
                findings = examine(connection, self._layout)
            dropped: tuple[str, ...] = ()
            if findings.problems:
                dropped = mend(self._database, findings)
                remove_orphans(self._database, self._layout)
                self._keep_up()
            return VerifyReport(tuple(findings.problems), dropped)

    def _count(self, table: str) -> int:
        with self._database.reading() as connection:
            count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count

    def _keep_up(self, *, thorough: bool = False) -> None:
        """Bring the coarse stage up to what was just committed."""
        keep_up(self._database, self._layout, self._manifest, self._coarse, thorough=thorough)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the one process that writes, and clear away what an interrupted one left."""
        with held(self._lock, self._layout):
            remove_orphans(self._database, self._layout)
            yield
