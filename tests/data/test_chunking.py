from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from openclara.data.chunking import chunk
from openclara.data.sentences import Boundary, sentence_cuts, stripped
from openclara.types import Chunk

Offsets = list[tuple[int, int]]

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def by_words(texts: list[str]) -> list[Offsets]:
    return [[match.span() for match in re.finditer(r"\S+", text)] for text in texts]


def by_characters(texts: list[str]) -> list[Offsets]:
    return [[(at, at + 1) for at in range(len(text))] for text in texts]


def by_bytes(texts: list[str]) -> list[Offsets]:
    """Several tokens share a character, as in byte-level BPE."""
    return [
        [(at, at + 1) for at, character in enumerate(text) for _ in character.encode()]
        for text in texts
    ]


def with_opening_cost(texts: list[str]) -> list[Offsets]:
    """A text that starts with a letter costs three tokens more: sums of parts do not add up."""
    return [
        [(0, 0)] * (3 if text[:1].isalpha() else 0) + spans
        for text, spans in zip(texts, by_words(texts), strict=True)
    ]


def with_blank_cost(texts: list[str]) -> list[Offsets]:
    """A blank before the first word costs a token that reaches into that word."""
    return [
        [(0, len(text) - len(text.lstrip()) + 1)] * text[:1].isspace() + spans
        for text, spans in zip(texts, by_words(texts), strict=True)
    ]


def sentences_of(text: str) -> list[str]:
    start, end = stripped(text, 0, len(text))
    cuts = [start, *(cut for cut, _ in sentence_cuts(text, start, end)), end]
    return [text[a:b].strip() for a, b in pairwise(cuts)]


WORDS = "Dr. Anna saw it, then left. Who? (No. 5) U.S. e.g. 日本 。 1. end é e\u0301 👩\u200d🚀 …"
PROSE = st.lists(
    st.sampled_from([*WORDS.split(), "x" * 30, "- ", "\n", "\n\n", " ", "\t"]), max_size=60
).map(" ".join)
TEXTS = PROSE | st.text(max_size=80) | st.text(alphabet=" \n.,ab。é", max_size=120)


# ---- the guarantees ----


@pytest.mark.parametrize(
    "tokenize", [by_words, by_characters, by_bytes, with_opening_cost, with_blank_cost]
)
@settings(UNHURRIED, max_examples=300)
@given(text=TEXTS, max_tokens=st.integers(4, 40))
@example(text="Foo.\n\nBar.\n- baz", max_tokens=4)
def test_chunks_cover_the_text_in_order_and_fit(tokenize, text, max_tokens):
    chunks = chunk(text, max_tokens=max_tokens, tokenize=tokenize)

    covered = set()
    last = 0
    for each in chunks:
        stretch = text[each.start : each.end]
        assert each.start >= last
        assert stretch
        assert stretch == stretch.strip()
        (tokens,) = tokenize([stretch])
        assert each.n_tokens == len(tokens) <= max_tokens
        covered.update(range(each.start, each.end))
        last = each.end
    assert all(at in covered or character.isspace() for at, character in enumerate(text))


@pytest.mark.parametrize("tokenize", [by_words, by_characters, with_opening_cost, with_blank_cost])
@settings(UNHURRIED, max_examples=300)
@given(text=PROSE, max_tokens=st.integers(4, 60))
def test_no_sentence_that_fits_is_cut(tokenize, text, max_tokens):
    chunks = chunk(text, max_tokens=max_tokens, tokenize=tokenize)

    start, end = stripped(text, 0, len(text))
    ends = [cut for cut, _ in sentence_cuts(text, start, end)]
    for each in chunks[:-1]:
        if each.end in ends:
            continue
        before = max([start, *(cut for cut in ends if cut < each.end)])
        after = min([end, *(cut for cut in ends if cut > each.end)])
        (tokens,) = tokenize([text[before:after].strip()])
        assert len(tokens) > max_tokens, text[before:after]


@settings(UNHURRIED, max_examples=200)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=60),
    max_tokens=st.integers(12, 60),
)
def test_there_are_as_few_chunks_as_sentences_allow(sizes, max_tokens):
    text = " ".join("Aa" + " b" * (size - 1) + "." for size in sizes)

    chunks = chunk(text, max_tokens=max_tokens, tokenize=by_words)

    # Filling each chunk to the brim is optimal for the number of chunks.
    fewest, filled = 1, 0
    for size in sizes:
        fewest, filled = (
            (fewest, filled + size) if filled + size <= max_tokens else (fewest + 1, size)
        )
    # Joining the smallest pieces may cost a sixteenth of the limit for each chunk.
    assert fewest <= len(chunks) <= fewest + (fewest + 15) // 16


@settings(UNHURRIED, max_examples=100)
@given(text=TEXTS, max_tokens=st.integers(4, 40))
def test_a_chunk_cut_again_is_itself(text, max_tokens):
    for each in chunk(text, max_tokens=max_tokens, tokenize=by_words):
        again = chunk(text[each.start : each.end], max_tokens=max_tokens, tokenize=by_words)
        assert again == [Chunk(0, each.end - each.start, each.n_tokens)]


# ---- single cases ----


def pieces(text: str, max_tokens: int, tokenize=by_words) -> list[str]:
    return [text[c.start : c.end] for c in chunk(text, max_tokens=max_tokens, tokenize=tokenize)]


@pytest.mark.parametrize("text", ["", " ", "\n\t \u2003\u2029"])
def test_blank_text_has_no_chunks(text):
    assert chunk(text, max_tokens=5, tokenize=by_words) == []


def test_text_that_fits_is_one_chunk_without_its_margins():
    assert chunk("  One two. \n\nThree. ", max_tokens=3, tokenize=by_words) == [Chunk(2, 19, 3)]


def test_sizes_are_balanced_rather_than_a_tail_left():
    text = " ".join(["One two three four five."] * 21)

    sizes = [each.n_tokens for each in chunk(text, max_tokens=100, tokenize=by_words)]

    assert sorted(sizes) == [50, 55]


def test_paragraphs_are_kept_together_where_sizes_stay_roughly_equal():
    first, second = ["Aa bb cc dd ee."] * 9, ["Ff gg hh ii jj."] * 11
    text = " ".join(first) + "\n\n" + " ".join(second)

    assert pieces(text, 60) == [" ".join(first), " ".join(second)]


def test_a_sentence_of_exactly_the_limit_is_whole_in_spite_of_the_blank_before_it():
    text = "Short one.    Abcdefghijklmnop."

    assert pieces(text, 17, by_characters) == ["Short one.", "Abcdefghijklmnop."]


def test_a_sentence_that_seems_too_long_after_another_is_whole_where_it_fits():
    text = "Short one. Aa bb cc dd, ee ff gg hh."

    assert pieces(text, 8, with_blank_cost) == ["Short one.", "Aa bb cc dd, ee ff gg hh."]


def test_where_sums_fall_short_chunks_are_packed_anew_rather_than_halved():
    text = " ".join(["Aa bb cc dd ee."] * 23)

    sizes = [each.n_tokens for each in chunk(text, max_tokens=30, tokenize=with_opening_cost)]

    assert sorted(sizes) == [23, 23, 28, 28, 28]


def test_a_long_sentence_is_cut_at_clauses():
    text = "When the rain had stopped at last, the children went out to play, and nobody called."

    assert pieces(text, 8) == [
        "When the rain had stopped at last,",
        "the children went out to play,",
        "and nobody called.",
    ]


def test_a_long_sentence_is_cut_at_line_ends_before_clauses():
    assert pieces("one, two three\nfour, five six\nseven, eight nine", 3) == [
        "one, two three",
        "four, five six",
        "seven, eight nine",
    ]


def test_without_punctuation_words_are_the_limit():
    assert pieces("one two three four five six seven eight nine", 4) == [
        "one two three",
        "four five six",
        "seven eight nine",
    ]


def test_an_endless_word_is_cut_between_tokens():
    assert [len(piece) for piece in pieces("x" * 100, 30, by_characters)] == [25] * 4


def test_a_byte_token_never_cuts_a_character():
    assert pieces("éééééé", 5, by_bytes) == ["éé", "éé", "éé"]


def test_an_accent_stays_with_its_letter():
    text = "e\u0301" * 6
    for piece in pieces(text, 3, by_characters):
        assert piece.count("e") == piece.count("\u0301")


def test_a_joined_emoji_stays_whole_where_it_fits():
    text = "👩\u200d🚀" * 4
    assert pieces(text, 7, by_characters) == ["👩\u200d🚀" * 2] * 2


def test_japanese_is_cut_after_its_stops_without_spaces():
    assert pieces("今日は晴れ。明日は雨？「そうだ。」終わり", 7, by_characters) == [
        "今日は晴れ。",
        "明日は雨？",
        "「そうだ。」",
        "終わり",
    ]


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_a_limit_below_one_is_refused(max_tokens):
    with pytest.raises(ValueError, match="at least 1"):
        chunk("text", max_tokens=max_tokens, tokenize=by_words)


def test_a_character_above_the_limit_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"'🚀' alone has 4 tokens; raise it"):
        chunk("ab 🚀", max_tokens=3, tokenize=by_bytes)


# ---- sentences ----


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rained.", "We left."],
        ["Who?", "Me!", "Really?!", "Yes."],
        ["Dr. Smith met Mrs. Jones.", "They talked."],
        ["Use fruit, e.g. Apples or i.e. Pears.", "Enjoy."],
        ["The U.S. Army moved.", "It stopped."],
        ["J. R. R. Tolkien wrote it.", "He was English."],
        ["It costs 3.14 dollars.", "Pay 1,000.50 now."],
        ["Version 2.0.1 is out.", "Get it."],
        ["Wait... what is that?", "Nothing."],
        ["He paused…", "Then he left."],
        ["It ended...", "Or so they said."],
        ["“Stop.”", "He ran."],
        ['She said "Go." and went.', "Fine."],
        ['"Really?" he asked.', "“Yes!” she said."],
        ["(See below.)", "Next [one.]", "Last."],
        ["See Fig. 3 and No. 5 for p. 12.", "Then rest."],
        ["He said no.", "Nobody came."],
        ["We met at 5 p.m. on Monday.", "It was 6 p.m.", "The sun set."],
        ["In 1999.", "Then came 2000."],
        ["Visit www.example.com or a.b for more.", "Thanks."],
        ["Das ist z.B. Berlin.", "Das war es."],
        ["¿Qué?", "¡Nada!", "Él salió."],
        ["今日は。", "明日！", "「本当？」", "はい"],
        ["यह है।", "वह था।"],
        ["هل جاء؟", "نعم۔", "حسنا"],
        ["*Bold end.*", "Plain."],
    ],
    ids=lambda sentences: sentences[0],
)
def test_sentences(sentences):
    wide = all(re.search("[\u3040-\u9fff]", sentence) for sentence in sentences)
    text = ("" if wide else " ").join(sentences)

    assert sentences_of(text) == sentences


def test_lists_headings_and_blank_lines_end_sentences():
    text = (
        "# Title\n\nIntro without stop\n- first\n- second\n1. third\n2. Fourth\n\n \n  Last\nline"
    )

    assert sentences_of(text) == [
        "# Title",
        "Intro without stop",
        "- first",
        "- second",
        "1. third",
        "2. Fourth",
        "Last\nline",
    ]


def test_a_stop_before_a_blank_line_is_one_cut_and_ends_the_paragraph():
    assert list(sentence_cuts("One. Two.\r\n\r\nThree", 0, 18)) == [
        (4, Boundary.SENTENCE),
        (9, Boundary.PARAGRAPH),
    ]


# ---- a real tokenizer ----


def test_with_byte_level_bpe():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = (
        "The harbour bridge was opened in 1932. It crosses the water from north to south, and "
        "trains run on it.\n\nDr. Bradfield drew up the plans; Ralph Freeman did the sums.  "
        "“Who built it?” Some 1,400 people did, café owners not included 🚀.\n"
    ) * 12
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(), trainer)

    def tokenize(texts: list[str]) -> list[Offsets]:
        return [each.offsets for each in tokenizer.encode_batch(texts)]

    for max_tokens in (7, 24, 64, 200):
        chunks = chunk(text, max_tokens=max_tokens, tokenize=tokenize)
        exact = [len(tokenizer.encode(text[c.start : c.end]).ids) for c in chunks]
        assert [c.n_tokens for c in chunks] == exact
        assert max(exact) <= max_tokens
        kept = "".join(text[c.start : c.end] for c in chunks)
        assert re.sub(r"\s", "", kept) == re.sub(r"\s", "", text)
        if max_tokens == 200:
            ends = {cut for cut, _ in sentence_cuts(text, 0, len(text.rstrip()))}
            assert {c.end for c in chunks[:-1]} <= ends
            assert min(exact) > 120


# ---- cost ----


def counting(tokenize):
    spent = {"calls": 0, "characters": 0}

    def counted(texts: list[str]) -> list[Offsets]:
        spent["calls"] += 1
        spent["characters"] += sum(map(len, texts))
        return tokenize(texts)

    return counted, spent


def test_tokenises_about_twice_in_large_batches():
    text = "The quick brown fox jumps over the lazy dog again. " * 20_000
    tokenize, spent = counting(by_words)

    chunk(text, max_tokens=256, tokenize=tokenize)

    assert spent["characters"] < 2.1 * len(text)
    assert spent["calls"] < 20


# A rule that backtracks, or looks back, would need minutes for one of these.
ODD_TEXTS = {
    "dots": "." * 200_000,
    "spaced dots": ". " * 20_000,
    "blank lines": "x" + " \n" * 100_000 + "y",
    "gap": "x" + " " * 200_000 + ". y",
    "brackets": "(" * 100_000 + ")" * 100_000,
    "closers": ".)" * 100_000,
    "quotes": "“" * 200_000,
    "words": "word " * 20_000,
    "log": "2024-01-01 12:00:00 INFO event\n" * 4_000,
    "endless word": "a" * 20_000,
    "accents": "e" + "\u0301" * 20_000,
}


@pytest.mark.parametrize("name", ODD_TEXTS)
def test_odd_texts_take_linear_time(name):
    text = ODD_TEXTS[name]
    tokenize, spent = counting(by_characters if name in ("endless word", "accents") else by_words)
    # Of this process, so that a busy machine does not count.
    started_s = time.process_time()

    chunks = chunk(text, max_tokens=256, tokenize=tokenize)

    assert time.process_time() - started_s < 10
    assert all(0 < each.n_tokens <= 256 for each in chunks)
    assert spent["characters"] < 3 * len(text) + 1000
