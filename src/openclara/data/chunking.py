"""Cutting a text into chunks that fit the model, at the ends of sentences wherever one fits."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate, chain, groupby, pairwise
from statistics import median_low
from typing import TYPE_CHECKING, NamedTuple

from openclara.data.sentences import (
    INNER_CUTS,
    Boundary,
    inner_cuts,
    is_inside_character,
    right_stripped,
    sentence_cuts,
    stripped,
)
from openclara.types import Chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Offsets = list[tuple[int, int]]
    Tokenize = Callable[[list[str]], list[Offsets]]


def chunk(text: str, *, max_tokens: int, tokenize: Tokenize) -> list[Chunk]:
    """Cut a text into as few chunks as fit, of roughly equal size.

    A sentence that fits is never cut. One that does not is cut at line ends, then after clause
    punctuation, then between words, then between tokens, each only where the one before does not
    do. Time is linear in the text; it is tokenised about twice, in large batches.

    Args:
        text: Any text; whitespace around and between chunks belongs to none.
        max_tokens: Most tokens of a chunk when it is tokenised by itself, without control tokens.
        tokenize: Gives for each of several strings the half-open character spans of its tokens,
            in order.

    Returns:
        Chunks in reading order, which do not overlap, cover every character that is not
        whitespace and neither start nor end with whitespace. Blank text gives none.

    Raises:
        ValueError: `max_tokens` is below 1, or below the tokens of a single character.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
    start, end = stripped(text, 0, len(text))
    if start == end:
        return []
    # Most documents of a passage corpus fit whole: one call settles them.
    if end - start <= _LIKELY_CHARACTERS * max_tokens:
        (tokens,) = tokenize([text[start:end]])
        if len(tokens) <= max_tokens:
            return [Chunk(start, end, len(tokens))]
    pieces = _coarsened(_pieces(text, max_tokens, tokenize), max_tokens // _GRAINS)
    return _settled(text, _fitted(text, pieces, max_tokens, tokenize), max_tokens, tokenize)


_LIKELY_CHARACTERS = 8
"""Characters for each token of the limit, beyond which a text hardly fits whole."""

_GRAINS = 16
"""Pieces below this part of the limit are joined, which bounds the search for the best cuts."""

_ROUNDS = 4
"""How often a text is packed before what is still too long is halved."""

_BATCH_STRINGS, _BATCH_CHARACTERS = 4096, 1 << 18


# ---- pieces: the stretches that are never cut again unless they turn out too long ----


class _Piece(NamedTuple):
    """A stretch of the text; each starts where the one before it ends.

    Attributes:
        start: First character. Whitespace before the words is the piece's own, so that token
            counts of neighbours add up.
        end: One past the last character, which is not whitespace.
        n_tokens: Tokens of the whole stretch.
        n_lead: Fewer tokens, or more below zero, when it opens a chunk without that whitespace.
        boundary: What ends here.
    """

    start: int
    end: int
    n_tokens: int
    n_lead: int
    boundary: Boundary

    @property
    def n_alone(self) -> int:
        """Tokens when it opens a chunk."""
        return self.n_tokens - self.n_lead


def _pieces(text: str, max_tokens: int, tokenize: Tokenize) -> Iterator[_Piece]:
    sentences = _bounded_sentences(text, max(10_000, 100 * max_tokens))
    for batch in _batches(sentences):
        measured = tokenize([text[start:end] for start, end, _ in batch])
        pieces = [
            _piece(text, start, end, boundary, [start + first for first, _ in tokens])
            for (start, end, boundary), tokens in zip(batch, measured, strict=True)
        ]
        # Counted with the whitespace before it, a sentence may seem too long that by itself fits.
        long = [piece for piece in pieces if piece.n_alone > max_tokens]
        bodies = [stripped(text, piece.start, piece.end) for piece in long]
        alone = tokenize([text[start:end] for start, end in bodies]) if long else []
        again = {
            piece: (start, tokens)
            for piece, (start, _), tokens in zip(long, bodies, alone, strict=True)
        }
        for piece in pieces:
            if piece not in again:
                yield piece
                continue
            start, tokens = again[piece]
            starts = [start + first for first, _ in tokens]
            body = _piece(text, start, piece.end, piece.boundary, starts)
            yield from _fragments(text, body, Boundary.LINE, starts, max_tokens)


def _bounded_sentences(text: str, longest: int) -> Iterator[tuple[int, int, Boundary]]:
    """Cut into sentences; one of more than `longest` characters (a log, a table) is none."""
    start, end = stripped(text, 0, len(text))
    for cut, boundary in chain(sentence_cuts(text, start, end), [(end, Boundary.PARAGRAPH)]):
        body = stripped(text, start, cut)[0]
        while cut - body > longest:
            at, inner = _last_cut(text, body + longest // 2, body + longest)
            yield start, at, inner
            start, body = at, stripped(text, at, cut)[0]
        yield start, cut, boundary
        start = cut


def _last_cut(text: str, low: int, high: int) -> tuple[int, Boundary]:
    for boundary in INNER_CUTS:
        cuts = inner_cuts(text, low, high, boundary)
        if cuts:
            return cuts[-1], boundary
    # All blank, or one endless word.
    at = right_stripped(text, 0, high)
    while at == high and at > low and is_inside_character(text, at):
        at, high = at - 1, high - 1
    return at, Boundary.TOKEN


def _piece(
    text: str, start: int, end: int, boundary: Boundary, token_starts: Sequence[int]
) -> _Piece:
    first, last = bisect_left(token_starts, start), bisect_left(token_starts, end)
    body = stripped(text, start, end)[0]
    blank = bisect_left(token_starts, body, first, last) - first
    # The token before the first letter may reach into it (" the"); it stays when the blank goes.
    n_lead = blank if first + blank < last and token_starts[first + blank] == body else blank - 1
    return _Piece(start, end, last - first, max(n_lead, 0), boundary)


def _fragments(
    text: str, piece: _Piece, level: Boundary, token_starts: Sequence[int], max_tokens: int
) -> Iterator[_Piece]:
    if piece.n_alone <= max_tokens or piece.n_tokens < 2:
        yield piece
        return
    start, end = piece.start, piece.end
    if level is Boundary.TOKEN:
        cuts = _token_cuts(text, start, end, token_starts)
    else:
        cuts = inner_cuts(text, start, end, level)
    for a, b in pairwise([start, *cuts, end]):
        part = _piece(text, a, b, piece.boundary if b == end else level, token_starts)
        if level is Boundary.TOKEN:
            yield part
        else:
            yield from _fragments(text, part, Boundary(level + 1), token_starts, max_tokens)


def _token_cuts(text: str, start: int, end: int, token_starts: Sequence[int]) -> list[int]:
    within = token_starts[bisect_left(token_starts, start + 1) : bisect_left(token_starts, end)]
    # Several tokens may make up one character and then start at the same place.
    cuts = [at for at, _ in groupby(within) if not text[at - 1].isspace()]
    return [at for at in cuts if not is_inside_character(text, at)] or cuts


def _batches(
    sentences: Iterable[tuple[int, int, Boundary]],
) -> Iterator[list[tuple[int, int, Boundary]]]:
    batch: list[tuple[int, int, Boundary]] = []
    size = 0
    for sentence in sentences:
        batch.append(sentence)
        size += sentence[1] - sentence[0]
        if len(batch) == _BATCH_STRINGS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# ---- pieces into chunks ----


def _coarsened(pieces: Iterable[_Piece], grain: int) -> list[_Piece]:
    """Join neighbours of at most `grain` tokens together."""
    coarse: list[_Piece] = []
    for piece in pieces:
        if coarse and coarse[-1].n_tokens + piece.n_tokens <= grain:
            last = coarse[-1]
            coarse[-1] = piece._replace(
                start=last.start, n_tokens=last.n_tokens + piece.n_tokens, n_lead=last.n_lead
            )
        else:
            coarse.append(piece)
    return coarse


_WEIGHTS = {
    Boundary.PARAGRAPH: 0,
    Boundary.SENTENCE: 2,
    Boundary.LINE: 3,
    Boundary.CLAUSE: 4,
    Boundary.WORD: 6,
    Boundary.TOKEN: 8,
}
"""By how many sixteenths of the limit a chunk may miss the even size for a better boundary."""


def _packed(pieces: Sequence[_Piece], limit: int) -> list[tuple[int, int]]:
    """Group pieces into the fewest runs that fit, then the most even, by dynamic programming.

    Returns:
        First piece and one past the last piece of each run.
    """
    total = [0, *accumulate(piece.n_tokens for piece in pieces)]
    # Outweighs any sum of the other costs, so that fewer chunks always win.
    per_chunk = 2 * limit**2 * (len(pieces) + 1)
    penalties = {boundary: (weight * limit) ** 2 // 256 for boundary, weight in _WEIGHTS.items()}
    best = [0]
    opened_at = [0]
    for stop in range(1, len(pieces) + 1):
        # A piece that is too long all by itself is dealt with when all is counted.
        cost, opened = best[stop - 1] + (total[stop] - total[stop - 1]) ** 2, stop - 1
        for first in range(stop - 2, -1, -1):
            if total[stop] - total[first + 1] > limit:
                break
            size = total[stop] - total[first] - pieces[first].n_lead
            if size <= limit:
                cost, opened = min((cost, opened), (best[first] + size**2, first))
        best.append(cost + per_chunk + penalties[pieces[stop - 1].boundary])
        opened_at.append(opened)
    runs = []
    stop = len(pieces)
    while stop:
        runs.append((opened_at[stop], stop))
        stop = opened_at[stop]
    return runs[::-1]


def _fitted(
    text: str, pieces: list[_Piece], max_tokens: int, tokenize: Tokenize
) -> dict[tuple[int, int], int]:
    """Pack, count, and pack again with what the counts taught, until all fit or hardly more will.

    Tokens at the start of a text may come out otherwise than in its middle ("Sydney", " Sydney"),
    so the sum over the pieces of a chunk is only an estimate of its own count.

    Returns:
        Tokens of each span of characters.
    """
    counts: dict[tuple[int, int], int] = {}
    for _ in range(_ROUNDS):
        runs = _packed(pieces, max_tokens)
        spans = [stripped(text, pieces[first].start, pieces[stop - 1].end) for first, stop in runs]
        known = counts
        counts = {span: known[span] for span in spans if span in known}
        counts.update(_counted(text, [span for span in spans if span not in known], tokenize))
        if max(counts.values()) <= max_tokens:
            break
        leads = [
            sum(piece.n_tokens for piece in pieces[first:stop]) - counts[span]
            for (first, stop), span in zip(runs, spans, strict=True)
        ]
        usual = median_low(
            lead - pieces[first].n_lead for lead, (first, _) in zip(leads, runs, strict=True)
        )
        pieces = [piece._replace(n_lead=piece.n_lead + min(usual, 0)) for piece in pieces]
        for lead, (first, _) in zip(leads, runs, strict=True):
            pieces[first] = pieces[first]._replace(n_lead=lead)
    return counts


def _counted(
    text: str, spans: Iterable[tuple[int, int]], tokenize: Tokenize
) -> Iterator[tuple[tuple[int, int], int]]:
    for batch in _batches((start, end, Boundary.TOKEN) for start, end in spans):
        counts = map(len, tokenize([text[start:end] for start, end, _ in batch]))
        for (start, end, _), count in zip(batch, counts, strict=True):
            yield (start, end), count


def _settled(
    text: str, counts: dict[tuple[int, int], int], max_tokens: int, tokenize: Tokenize
) -> list[Chunk]:
    """Halve what is still too long, until nothing is."""
    chunks = []
    while counts:
        chunks += [Chunk(*span, count) for span, count in counts.items() if count <= max_tokens]
        long = {span: count for span, count in counts.items() if count > max_tokens}
        halves = [half for span in long for half in _halves(text, *span, long[span], max_tokens)]
        counts = dict(_counted(text, halves, tokenize))
    return sorted(chunks, key=lambda chunk: chunk.start)


def _halves(text: str, start: int, end: int, count: int, max_tokens: int) -> list[tuple[int, int]]:
    if end - start == 1:
        raise ValueError(
            f"max_tokens is {max_tokens}, but the character {text[start]!r} alone has {count} "
            "tokens; raise it"
        )
    cuts = [cut for cut, _ in sentence_cuts(text, start, end)]
    for boundary in INNER_CUTS:
        cuts = cuts or inner_cuts(text, start, end, boundary)
    cuts = cuts or [at for at in range(start + 1, end) if not is_inside_character(text, at)]
    cut = min(cuts or range(start + 1, end), key=lambda at: abs(2 * at - start - end))
    return [(start, cut), stripped(text, cut, end)]
