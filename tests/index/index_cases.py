"""Small documents and latents for the index tests; the latents of a text are always the same."""

import hashlib

import torch

from openclara.types import Chunk, CompressedDocument, Document, LatentSpec

SPEC = LatentSpec(model="tiny", fingerprint="abc", n_memory=4, width=8, doc_max_length=32)


def latents_of(text: str, spec: LatentSpec = SPEC) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:6], "big")
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(spec.n_memory, spec.width, generator=generator)


def compress(document: Document, spec: LatentSpec = SPEC, size: int = 12) -> CompressedDocument:
    text = document.text
    chunks = tuple(
        Chunk(start, min(start + size, len(text)), len(text[start : start + size].split()))
        for start in range(0, len(text), size)
    )
    rows = [latents_of(text[chunk.start : chunk.end], spec) for chunk in chunks]
    latents = torch.stack(rows) if rows else torch.empty(0, spec.n_memory, spec.width)
    return CompressedDocument(document, chunks, latents)


def one_chunk(document: Document, latents: torch.Tensor) -> CompressedDocument:
    return CompressedDocument(document, (Chunk(0, len(document.text), 3),), latents[None])


class Stream:
    """A lazy compression that notes what it really compressed."""

    def __init__(self, documents):
        self.documents = documents
        self.compressed = []

    def __iter__(self):
        return self.skipping(lambda document: False)

    def skipping(self, unchanged):
        for document in self.documents:
            if not unchanged(document):
                self.compressed.append(document.id)
                yield compress(document)


class LookingAhead(Stream):
    """Asks about every document before it compresses the first, as batching does."""

    def skipping(self, unchanged):
        yield from map(compress, [d for d in self.documents if not unchanged(d)])
