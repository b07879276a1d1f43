"""`MilvusIndex`: the same documents and latents in Milvus, embedded or a cluster."""

# Q questions, P memory tokens of a question, C chunks, M memory tokens, D width

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from openclara.errors import ConfigError, DataError, FormatError
from openclara.index import database as db
from openclara.index.addresses import shown
from openclara.index.coarse.settings import Coarse
from openclara.index.filters import condition
from openclara.index.layout import Manifest
from openclara.index.milvus_adding import MilvusAdding
from openclara.index.milvus_collections import Collections
from openclara.index.milvus_connection import connect, explained, nothing_at
from openclara.index.milvus_rows import BATCH, Stored, name_of
from openclara.index.milvus_schema import create, load
from openclara.index.search import Search
from openclara.index.writing import framed_sha256
from openclara.types import CompressedDocument, Document, Hit, LatentSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from torch import Tensor

    from openclara.index.comparing import Queries
    from openclara.index.layout import Quantization
    from openclara.index.milvus_collections import Place
    from openclara.index.reports import AddReport
    from openclara.types import Chunk, Compression, Mode


class MilvusIndex:
    """Documents and their latents in three collections of Milvus.

    Milvus has no transactions: a document counts once its own row says so, which is written last,
    so that an interrupted write leaves rows that nobody reads. One process may write at a time;
    nothing enforces it. Search is by latents only.
    """

    def __init__(self, rows: Collections, address: str, manifest: Manifest) -> None:
        """Use `MilvusIndex.open`."""
        self._rows = rows
        self._address = address
        self._manifest = manifest

    @classmethod
    def open(
        cls,
        address: str | Path,
        spec: LatentSpec | None = None,
        *,
        name: str = "openclara",
        quantization: Quantization | None = None,
    ) -> Self:
        """Open an index, or make one where there is none.

        Args:
            address: A path that ends in `.db` for embedded Milvus, or the URI of a server.
            spec: What the model makes; None opens an existing index as it is.
            name: Of the index; its collections begin with it.
            quantization: Latents are rounded as that storage rounds them; None means bf16.

        Raises:
            FormatError: There is no index and no spec.
            ConfigError: The address is neither a path that ends in `.db` nor a URI.
            IndexMismatch: The index was made by another model or with another storage.
            IndexBusy: Another process has the embedded Milvus open.
            OpenClaraError: Milvus cannot be reached, or its packages are not installed.
        """
        address = str(address)
        if spec is None and not cls.exists(address, name=name):
            raise FormatError(
                f"there is no index {name!r} at milvus:{shown(address)}: make one with "
                f"`openclara index add milvus:{shown(address)} FILES`"
            )
        client = connect(address)
        try:
            with explained(address):
                if spec is not None and not _is_made(client, name):
                    manifest = Manifest(spec, quantization or "bf16")
                    create(client, name, spec.width, manifest.to_json())
                load(client, name)
            rows = Collections(client, name, address)
            manifest = rows.manifest()
            manifest.check(spec, quantization, f"milvus:{shown(address)}")
        except BaseException:
            client.close()
            raise
        return cls(rows, address, manifest)

    @classmethod
    def exists(cls, address: str | Path, *, name: str = "openclara") -> bool:
        """Whether there is an index; looking makes nothing.

        Args:
            address: As `open` takes it.
            name: Likewise.

        Raises:
            OpenClaraError: Milvus cannot be reached, or its packages are not installed.
        """
        address = str(address)
        if nothing_at(address):
            return False
        client = connect(address)
        try:
            with explained(address):
                return _is_made(client, name)
        finally:
            client.close()

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
        """Release the connection."""
        self._rows.close()

    @property
    def path(self) -> str:
        """Where it is, without a password."""
        return f"milvus:{shown(self._address)}"

    @property
    def default_mode(self) -> Mode:
        """How `Clara` searches it where no mode is given."""
        return "latent"

    @property
    def spec(self) -> LatentSpec:
        """What the latents were made with."""
        return self._manifest.spec

    @property
    def quantization(self) -> Quantization:
        """How the latents are rounded."""
        return self._manifest.quantization

    def __bool__(self) -> bool:
        """True also for an index without documents."""
        return True

    def __len__(self) -> int:
        """Documents held."""
        return sum(1 for _ in self._rows.all())

    @property
    def n_chunks(self) -> int:
        """Chunks held."""
        return sum(stored.chunks for stored in self._rows.all())

    def __contains__(self, document_id: object) -> bool:
        """Whether there is a document of that id."""
        return isinstance(document_id, str) and bool(self._rows.stored([name_of(document_id)]))

    def holds(self, document: Document) -> bool:
        """Whether the latents of this very title and text are stored under this id."""
        stored = self._rows.stored([name_of(document.id)]).get(name_of(document.id))
        return stored is not None and stored.framed == framed_sha256(document)

    def get(self, document_id: str) -> Document:
        """The document of that id.

        Raises:
            DataError: There is none.
        """
        return self._rows.read(self._known([document_id]))[name_of(document_id)][0]

    def documents(
        self, *, where: Sequence[str] = (), limit: int | None = None, offset: int = 0
    ) -> Iterator[Document]:
        """The documents, in the order their ids were first added.

        Raises:
            ConfigError: A filter cannot be read.
        """
        condition(where)
        return itertools.islice(
            self._listed(where), offset, None if limit is None else offset + limit
        )

    def hits(self, ids: Sequence[str], *, n_memory: int | None = None) -> list[list[Hit]]:
        """Every stretch of some documents with its latents, in reading order.

        Raises:
            DataError: There is no document of an id.
            ConfigError: `n_memory` is out of range.
        """
        kept = self.spec.n_memory
        if n_memory is not None and not 1 <= n_memory <= kept:
            raise ConfigError(f"n_memory is {n_memory}, this index keeps {kept}: use 1 to that")
        known = self._known(ids)
        read = self._rows.read(known)
        places = [(stored, chunk) for stored in known for chunk in range(stored.chunks)]
        latents = self._rows.latents(places, n_memory or kept)
        found: dict[str, list[Hit]] = {stored.name: [] for stored in known}
        for stored, chunk in places:
            document, chunks = read[stored.name]
            latents_MD = self._given(latents[stored, chunk])
            found[stored.name].append(_hit(document, chunks[chunk], 0.0, None, latents_MD))
        return [sorted(found[name_of(name)], key=lambda hit: hit.start) for name in ids]

    def add(
        self,
        compressed: Iterable[CompressedDocument] | Compression,
        *,
        on_progress: Callable[[AddReport], None] | None = None,
    ) -> AddReport:
        """Add documents, replacing those whose id is known.

        In groups, leaving out what is held already, as `LatentIndex.add` does.

        Args:
            compressed: `clara.compress(...)`, or compressed documents from elsewhere. Of several
                with one id the last counts.
            on_progress: Called after each group with what was added so far.

        Returns:
            What was done.

        Raises:
            DataError: A document or its latents cannot be stored.
            IndexBusy: Another process writes, as far as that shows.
            OpenClaraError: Milvus failed.
        """
        return MilvusAdding(self._rows, self._manifest, on_progress).run(compressed)

    def delete(self, ids: Iterable[str] = (), *, where: Sequence[str] = ()) -> int:
        """Remove the named documents, and those that every filter holds for.

        Raises:
            ConfigError: A filter cannot be read.
        """
        condition(where)
        names = {name_of(document_id) for document_id in ids}
        if where:
            names |= {name_of(document.id) for document in self._listed(where)}
        known = self._rows.stored(sorted(names))
        self._rows.drop(list(known.values()))
        return len(known)

    def search(
        self,
        questions: Sequence[str],
        latents: Tensor | None,
        *,
        k: int,
        mode: Mode = "latent",
        where: Sequence[str] = (),
        n_memory: int | None = None,
        pool: int = 100,
        latent_weight: float = 0.5,
        with_latents: bool = True,
    ) -> list[list[Hit]]:
        """Find the chunks whose latents fit each question best; other modes are not there.

        Milvus nominates by single latents, the exact score decides.

        Raises:
            ConfigError: An argument does not fit, or a filter cannot be read.
            DataError: A question is empty.
        """
        if mode != "latent":
            raise ConfigError(f"an index in Milvus has no word index: use mode latent, not {mode}")
        condition(where)
        search = Search.checked(
            self.spec, questions, latents, n_memory=n_memory, k=k, mode=mode, pool=pool,
            latent_weight=latent_weight, with_latents=with_latents, coarse=Coarse(),
        )  # fmt: skip
        assert search.queries is not None
        return [
            self._found(search, search.queries, question, where)
            for question in range(len(questions))
        ]

    def _found(
        self, search: Search, asked: Queries, question: int, where: Sequence[str]
    ) -> list[Hit]:
        vectors_VMD, _ = asked.vectors(question)
        nominated = self._rows.nominate(
            vectors_VMD.flatten(0, 1), asked.n_memory, search.coarse.candidates
        )
        places = self._allowed(nominated, where)
        if len(places) < search.k:
            every = [(one, chunk) for one in self._rows.all() for chunk in range(one.chunks)]
            places = self._allowed(every, where)
        latents = self._rows.latents(places, search.n_memory)
        scored = [
            (float(asked.exactly(question, latents[place][None])[0]), place) for place in places
        ]
        scored.sort(key=lambda one: (-one[0], one[1][0].latents, one[1][1]))
        best = scored[: search.k]
        read = self._rows.read([stored for _, (stored, _) in best])
        return [
            _hit(
                read[stored.name][0], read[stored.name][1][chunk], score, score,
                self._given(latents[stored, chunk]) if search.with_latents else None,
            )
            for score, (stored, chunk) in best
        ]  # fmt: skip

    def _allowed(self, places: Sequence[Place], where: Sequence[str]) -> list[Place]:
        if not where:
            return list(places)
        unique = {stored.name: stored for stored, _ in places}
        read = self._rows.read(list(unique.values()))
        kept = _passing({name: document for name, (document, _) in read.items()}, where)
        return [place for place in places if place[0].name in kept]

    def _listed(self, where: Sequence[str]) -> Iterator[Document]:
        stored = sorted(self._rows.all(), key=lambda one: one.ordinal)
        for start in range(0, len(stored), BATCH):
            page = stored[start : start + BATCH]
            read = self._rows.read(page)
            kept = _passing({one.name: read[one.name][0] for one in page}, where)
            yield from (read[one.name][0] for one in page if one.name in kept)

    def _given(self, latents_MD: Tensor) -> Tensor:
        return latents_MD.bfloat16() if self.quantization == "bf16" else latents_MD

    def _known(self, ids: Sequence[str]) -> list[Stored]:
        known = self._rows.stored([name_of(document_id) for document_id in ids])
        for document_id in ids:
            if name_of(document_id) not in known:
                raise DataError(
                    f"the index {self.path} has no document {document_id!r}: list the ids it has"
                )
        return list(known.values())


def _is_made(client: Any, name: str) -> bool:
    """Whether there is an index; its pieces are the last collection that is made."""
    return bool(client.has_collection(f"{name}_pieces"))


def _hit(
    document: Document, chunk: Chunk, score: float, cosine: float | None, latents: Tensor | None
) -> Hit:
    return Hit(document, chunk.start, chunk.end, score, chunk.n_tokens, latents, cosine)


def _passing(documents: dict[str, Document], where: Sequence[str]) -> set[str]:
    """The names for which every filter holds, judged by SQLite as in a folder."""
    sql, parameters = condition(where)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE documents (name, id, title, source, metadata)")
        connection.executemany(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?)",
            [
                (name, one.id, one.title, one.source, db.canonical_json(one.metadata))
                for name, one in documents.items()
            ],
        )
        rows = connection.execute(f"SELECT name FROM documents WHERE {sql}", parameters)
        return {name for (name,) in rows}
