"""Clara: a trained model and its tokenizer; load, compress, search, ask, stream.

Legend: Q questions, C chunks, M memory tokens, D width.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args, overload

import torch
from torch import Tensor

from openclara.data.batches import text_batch
from openclara.data.chunking import chunk
from openclara.data.records import framed
from openclara.data.wording import PUBLISHED, OwnWording, Wording, make_wording
from openclara.errors import ConfigError, DataError, IndexMismatch, ModelError
from openclara.index.comparing import queries
from openclara.model.base import find_base, load_tokenizer
from openclara.model.checkpoint import Card, memory_table
from openclara.model.clara import ClaraModel
from openclara.model.generator import Decoding, Prompt
from openclara.model.placement import load_roles, plan_loading
from openclara.model.published.reading import read_any
from openclara.model.scoring import late_query
from openclara.model.zoo import DEFAULT_MODEL, find_checkpoint
from openclara.pipeline.answering import Answering, AnswerStream, ms_since
from openclara.pipeline.compressing import Compressing, by_length
from openclara.types import (
    Answer,
    Chunk,
    Context,
    Document,
    Hit,
    LatentSpec,
    Mode,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from openclara.data.tokenizer import TextTokenizer
    from openclara.index.comparing import Queries
    from openclara.index.interface import Index
    from openclara.model.adapters import Role
    from openclara.model.placement import DeviceMap, Plan
    from openclara.types import Precision


class Clara:
    """One model in three roles, ready to answer. Make it with `Clara.load`."""

    def __init__(
        self,
        model: ClaraModel,
        tokenizer: TextTokenizer,
        card: Card,
        spec: LatentSpec,
        wording: Wording | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.card = card
        self.latent_spec = spec
        self.wording = wording or OwnWording(tokenizer)

    @classmethod
    def load(
        cls,
        name: str = DEFAULT_MODEL,
        *,
        base: str | None = None,
        subfolder: str | None = None,
        n_memory: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        device_map: DeviceMap | None = None,
        on_plan: Callable[[Plan], None] = lambda plan: None,
    ) -> Clara:
        """Load a trained model for inference.

        Args:
            name: A zoo name, the folder of a finished run or of a published checkpoint, or a hub
                id of either.
            base: Folder or hub id of the base, where the one in the checkpoint is to be replaced.
            subfolder: Folder inside `name` that holds the checkpoint.
            n_memory: Latents for each chunk; any number up to what the model was trained with.
            device: `auto`, `cpu`, `cuda`, `mps`.
            precision: `auto` is bf16 where the hardware multiplies it, else float32; `int8` and
                `int4` keep the base's linear layers packed, with roles as adapters beside them.
            device_map: `auto` spreads a base that one GPU cannot hold over all there are.
            on_plan: Told what will be loaded, where and how large, before it is.

        Raises:
            ModelError: Model or base are missing, damaged, do not belong together, or are larger
                than the memory there is.
            ConfigError: `n_memory` is out of range.
        """
        checkpoint = read_any(find_checkpoint(name, subfolder=subfolder), base=base)
        card = checkpoint.card
        source = find_base(base or card.base)
        if source.sha256 != card.base_sha256:
            raise ModelError(
                f"the base {source.name} is not the one {name!r} was trained on (its weights "
                f"differ); pass base= with a folder or hub id of the right {card.base}"
            )
        chosen = checked_n_memory(n_memory, card)
        plan = plan_loading(
            source, checkpoint, device=device, precision=precision, device_map=device_map
        )
        on_plan(plan)
        roles = load_roles(source, checkpoint, plan)
        vocabulary_VD = roles.lm.get_input_embeddings().weight
        # Of a base that is spread over devices, texts enter where its embedding lies; one that is
        # kept in main memory until it is used says `meta`.
        where = plan.place.device if vocabulary_VD.is_meta else vocabulary_VD.device
        memory = memory_table(checkpoint, vocabulary_VD)
        head = checkpoint.head.to(where) if checkpoint.head.numel() else None
        model = ClaraModel(
            roles,
            memory.to(where),
            latent_gain=card.latent_gain,
            latent_layer=card.latent_layer,
            score=card.score,
            head_OD=head,
        )
        loaded = load_tokenizer(source, as_written=card.wording == PUBLISHED)
        tokenizer, wording = make_wording(card.wording, loaded)
        spec = LatentSpec(
            model=f"{name}/{subfolder}" if subfolder else name,
            fingerprint=checkpoint.fingerprint(),
            n_memory=chosen,
            width=vocabulary_VD.shape[1],
            doc_max_length=card.doc_max_length,
            score=card.score,
        )
        return cls(model.eval(), tokenizer, card, spec, wording)

    # -- compressing ----------------------------------------------------------------------------

    def compress(
        self,
        documents: Iterable[Document],
        *,
        on_progress: Callable[[int, int], None] = lambda n_documents, n_chunks: None,
    ) -> Compressing:
        """Chunks and latents of documents, made as they are asked for.

        Give the result to `add` of an index, which leaves out unchanged documents before they
        are compressed, or iterate it.

        Args:
            documents: Read as they are needed.
            on_progress: Called after each batch with the documents it finished and its chunks.
        """
        return Compressing(self, documents, on_progress)

    def chunk(self, document: Document) -> list[Chunk]:
        """Stretches of a document that fit the model together with its title."""
        title = self._title(document)
        spent = len(self.tokenizer.encode([framed(title, "")])[0]) if title else 0
        return chunk(
            document.text,
            max_tokens=self.card.doc_max_length - spent,
            tokenize=self.tokenizer.offsets,
        )

    def _title(self, document: Document) -> str:
        """The title, cut to a quarter of the model's length: the text must keep its room."""
        spans = self.tokenizer.offsets([document.title])[0] if document.title else []
        most = self.card.doc_max_length // 4
        return document.title if len(spans) <= most else document.title[: spans[most - 1][1]]

    @torch.inference_mode()
    def latents(
        self,
        texts: Sequence[str],
        *,
        role: Role,
        n_memory: int | None = None,
        on_batch: Callable[[Sequence[int]], None] = lambda positions: None,
    ) -> Tensor:
        """Latents of short texts, batched by length, in the order given.

        Args:
            texts: Each at most `doc_max_length` tokens; nothing is cut here.
            role: `compressor` for documents, `reasoner` for questions.
            n_memory: Latents for each text; that of `latent_spec` if None.
            on_batch: Called with the positions in `texts` that a batch finished.

        Returns:
            (len(texts), M, D) bf16 or float32 tensor on the CPU.

        Raises:
            ConfigError: `n_memory` is out of range.
        """
        return self._encoded(texts, role, n_memory, on_batch)[0]

    @torch.inference_mode()
    def _encoded(
        self,
        texts: Sequence[str],
        role: Role,
        n_memory: int | None,
        on_batch: Callable[[Sequence[int]], None] = lambda positions: None,
    ) -> tuple[Tensor, Tensor]:
        """(N, M, D) latents and (N, M) weights, in the order of the texts."""
        role = self.acting(role)
        n_memory = checked_n_memory(n_memory or self.latent_spec.n_memory, self.card)
        ids = self.tokenizer.encode(texts)
        if not ids:
            return torch.empty(0, n_memory, self.latent_spec.width), torch.empty(0, n_memory)
        made: dict[int, tuple[Tensor, Tensor]] = {}
        device = self.model.memory.weight.device
        for positions in by_length([len(text) for text in ids], n_memory):
            batch = text_batch(
                [ids[i] for i in positions],
                n_memory=n_memory,
                bos=self.tokenizer.bos,
                eos=self.tokenizer.eos,
            )
            encoded = self.model.encode(batch.to(device), role)
            rows = zip(encoded.latents_RMD.cpu(), encoded.weights_RM.cpu(), strict=True)
            made |= zip(positions, rows, strict=True)
            on_batch(positions)
        latents, weights = zip(*(made[at] for at in range(len(ids))), strict=True)
        return torch.stack(latents), torch.stack(weights)

    @property
    def roles(self) -> frozenset[str]:
        """Roles the model was trained in."""
        roles: Any = self.model.roles
        return frozenset(roles.trained)

    def acting(self, role: Role) -> Role:
        """The role that does the work: before the joint stage the compressor is the reasoner."""
        return "compressor" if role == "reasoner" and role not in self.roles else role

    # -- searching ------------------------------------------------------------------------------

    @overload
    def search(  # type: ignore[overload-overlap]  # a text is a sequence of texts as well
        self, question: str, index: Index, *, k: int = ..., mode: Mode | None = ...,
        where: Sequence[str] = ..., n_memory: int | None = ...,
    ) -> list[Hit]: ...  # fmt: skip

    @overload
    def search(
        self, question: Sequence[str], index: Index, *, k: int = ..., mode: Mode | None = ...,
        where: Sequence[str] = ..., n_memory: int | None = ...,
    ) -> list[list[Hit]]: ...  # fmt: skip

    def search(
        self,
        question: str | Sequence[str],
        index: Index,
        *,
        k: int = 5,
        mode: Mode | None = None,
        where: Sequence[str] = (),
        n_memory: int | None = None,
    ) -> list[Hit] | list[list[Hit]]:
        """The k best stretches for a question, or for each of several.

        Args:
            question: One question, or several.
            index: Where to look; made by this model.
            k: Hits wanted; fewer come back where the index holds fewer.
            mode: `latent`, `lexical`, or `hybrid` (both); that of the index if None, which is
                hybrid for a folder and latent for Milvus.
            where: Filters such as `year>=2020`; all must hold.
            n_memory: Use only this many of the stored latents.

        Raises:
            IndexMismatch: The index was made by another model.
            DataError: A question is empty.
            ConfigError: A filter, `k` or `n_memory` is wrong.
        """
        questions = [question] if isinstance(question, str) else list(question)
        found, _ = self._search(questions, index, k=k, mode=mode, where=where, n_memory=n_memory)
        return found[0] if isinstance(question, str) else found

    def _search(
        self,
        questions: list[str],
        index: Index,
        *,
        k: int,
        mode: Mode | None,
        where: Sequence[str],
        n_memory: int | None,
        with_latents: bool = False,
    ) -> tuple[list[list[Hit]], float]:
        """Hits, and the milliseconds it took to embed the questions."""
        self.check(questions, index)
        if not questions:
            return [], 0.0
        started = time.perf_counter()
        mode = index.default_mode if mode is None else mode
        latents_QMD = None
        used = index.spec.n_memory if n_memory is None else n_memory
        if mode != "lexical" or with_latents:
            latents_QMD = self.reason(questions, n_memory=used)
        embed_ms = ms_since(started)
        hits = index.search(
            questions,
            latents_QMD,
            k=k,
            mode=mode,
            where=where,
            n_memory=used,
            latent_weight=self.card.latent_weight,
            with_latents=with_latents,
        )
        return hits, embed_ms

    def reason(self, questions: Sequence[str], *, n_memory: int | None = None) -> Tensor:
        """Latents of questions, (Q, P, D), in the space of the documents' latents.

        Under a late score a question has `card.query_n_memory` latents, each as long as it weighs,
        and `n_memory` is not asked for.
        """
        cut = self.cut(questions)
        if self.card.score == "flat":
            return self.latents(cut, role="reasoner", n_memory=n_memory)
        latents_QPD, weights_QP = self._encoded(cut, "reasoner", self.card.query_n_memory)
        return late_query(latents_QPD, weights_QP)

    def cut(self, questions: Sequence[str]) -> list[str]:
        """Questions as the reasoner reads them.

        One longer than the model's document length keeps its end: what is asked usually stands
        there.
        """
        cut = []
        for text, spans in zip(questions, self.tokenizer.offsets(questions), strict=True):
            beyond = len(spans) - self.card.doc_max_length
            cut.append(text[spans[beyond][0] :] if beyond > 0 else text)
        return cut

    def check(self, questions: Sequence[str], index: Index | None) -> None:
        """Refuse what cannot be asked.

        Raises:
            DataError: A question is empty.
            IndexMismatch: The index was made by another model.
        """
        for question in questions:
            if not question.strip():
                raise DataError("the question is empty; ask something")
        if index is None:
            return
        ours, theirs = self.latent_spec, index.spec
        for name in ("fingerprint", "width", "doc_max_length", "score"):
            if getattr(ours, name) != getattr(theirs, name):
                raise IndexMismatch(
                    f"the index {index.path} was made by model {theirs.model!r}, not by "
                    f"{ours.model!r} ({name} differs); load that model, or make a new index with "
                    f"`openclara index add NEW_INDEX FILES --model {ours.model}`"
                )

    # -- answering ------------------------------------------------------------------------------

    @overload
    def ask(  # type: ignore[overload-overlap]  # a text is a sequence of texts as well
        self, question: str, index: Index | None = ..., *,
        documents: Sequence[Document] | None = ...,
        k: int | None = ..., context: Context = ..., mode: Mode | None = ...,
        where: Sequence[str] = ..., n_memory: int | None = ..., decoding: Decoding = ...,
    ) -> Answer: ...  # fmt: skip

    @overload
    def ask(
        self, question: Sequence[str], index: Index | None = ..., *,
        documents: Sequence[Document] | None = ...,
        k: int | None = ..., context: Context = ..., mode: Mode | None = ...,
        where: Sequence[str] = ..., n_memory: int | None = ..., decoding: Decoding = ...,
    ) -> list[Answer]: ...  # fmt: skip

    def ask(
        self,
        question: str | Sequence[str],
        index: Index | None = None,
        *,
        documents: Sequence[Document] | None = None,
        k: int | None = None,
        context: Context = "latents",
        mode: Mode | None = None,
        where: Sequence[str] = (),
        n_memory: int | None = None,
        decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    ) -> Answer | list[Answer]:
        """Answer a question, or several in one batch.

        Args:
            question: One question, or several.
            index: Where to look; may be left out with `documents` or context `none`.
            documents: Answer from these instead of an index, all of them, in order.
            k: Stretches to answer from; as many as is best for the model if None.
            context: `latents`; `text` gives the same generator the full stretches; `none` nothing.
            mode: As in `search`.
            where: As in `search`.
            n_memory: As in `search`.
            decoding: Length, temperature, seed.

        Raises:
            IndexMismatch: The index was made by another model.
            DataError: A question is empty.
            ConfigError: Neither index nor documents are given where the context needs them.
        """
        questions = [question] if isinstance(question, str) else list(question)
        if not questions:
            return []
        stream = self._start(
            questions, index, documents, k=k, context=context, mode=mode, where=where,
            n_memory=n_memory, decoding=decoding,
        )  # fmt: skip
        for _ in stream.steps():
            pass
        answers = stream.answers()
        return answers[0] if isinstance(question, str) else answers

    def answer(
        self,
        questions: Sequence[str],
        hits: Sequence[Sequence[Hit]],
        *,
        context: Context = "latents",
        role: Role | None = "generator",
        decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    ) -> list[Answer]:
        """Answer questions in one batch, each from stretches already chosen.

        Args:
            questions: Q questions.
            hits: For each its stretches, in the order they are to be read: from a search, from
                `LatentIndex.hits` or from `read`.
            context: As in `ask`; `latents` needs hits that carry theirs.
            role: Whose adapter writes; None is the bare base, for comparison.
            decoding: Length, temperature, seed.

        Raises:
            DataError: A question is empty, or hits carry no latents.
        """
        if not questions:
            return []
        self.check(questions, None)
        if context == "latents" and any(hit.latents is None for own in hits for hit in own):
            raise DataError("hits without latents cannot be answered from; use context text")
        answering = self._answering(
            list(questions), [list(own) for own in hits], context, decoding, role=role
        )
        for _ in answering.steps():
            pass
        return answering.answers()

    def stream(
        self,
        question: str,
        index: Index | None = None,
        *,
        documents: Sequence[Document] | None = None,
        k: int | None = None,
        context: Context = "latents",
        mode: Mode | None = None,
        where: Sequence[str] = (),
        n_memory: int | None = None,
        decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    ) -> AnswerStream:
        """Like `ask`, as pieces of text; the whole `Answer` is there when the last one is out."""
        started = self._start(
            [question], index, documents, k=k, context=context, mode=mode, where=where,
            n_memory=n_memory, decoding=decoding,
        )  # fmt: skip
        return AnswerStream(started)

    def _start(
        self,
        questions: list[str],
        index: Index | None,
        documents: Sequence[Document] | None,
        *,
        k: int | None,
        context: Context,
        mode: Mode | None,
        where: Sequence[str],
        n_memory: int | None,
        decoding: Decoding,
    ) -> Answering:
        clock = time.perf_counter()
        if context not in get_args(Context):
            raise ConfigError(f"context is {context!r}; use one of {', '.join(get_args(Context))}")
        self.check(questions, index)
        embed_ms = search_ms = 0.0
        hits: list[list[Hit]] = [[] for _ in questions]
        if context != "none":
            if documents is not None:
                with_latents = context == "latents"
                own = self.read(documents, n_memory=n_memory, with_latents=with_latents)
                hits = [own] * len(questions)
            elif index is not None:
                hits, embed_ms = self._search(
                    questions, index, k=self.card.top_k if k is None else k, mode=mode,
                    where=where, n_memory=n_memory, with_latents=context == "latents",
                )  # fmt: skip
                search_ms = ms_since(clock) - embed_ms
            else:
                raise ConfigError("there is nothing to answer from; give an index or documents")
        usage = Usage(embed_ms=embed_ms, search_ms=search_ms)
        return self._answering(questions, hits, context, decoding, usage=usage, clock=clock)

    def _answering(
        self,
        questions: list[str],
        hits: list[list[Hit]],
        context: Context,
        decoding: Decoding,
        *,
        role: Role | None = "generator",
        usage: Usage | None = None,
        clock: float | None = None,
    ) -> Answering:
        clock = time.perf_counter() if clock is None else clock
        prompts = [
            self.prompt(question, found, context)
            for question, found in zip(questions, hits, strict=True)
        ]
        return Answering(self, questions, hits, prompts, decoding, role, usage or Usage(), clock)

    def read(
        self,
        documents: Sequence[Document],
        *,
        n_memory: int | None = None,
        with_latents: bool = True,
    ) -> list[Hit]:
        """Every stretch of some documents, in order, to answer from without an index.

        Args:
            documents: What to read, all of it.
            n_memory: Latents for each stretch; that of `latent_spec` if None.
            with_latents: False leaves out compressing, where only the text is wanted.
        """
        hits: list[Hit] = []
        texts: list[str] = []
        for document in documents:
            chunks = self.chunk(document)
            hits += [Hit(document, c.start, c.end, 0.0, n_tokens=c.n_tokens) for c in chunks]
            texts += self._framed(document, chunks)
        if not with_latents:
            return hits
        latents_CMD = self.latents(texts, role="compressor", n_memory=n_memory)
        return [replace(hit, latents=own) for hit, own in zip(hits, latents_CMD, strict=True)]

    def _framed(self, document: Document, chunks: Sequence[Chunk]) -> list[str]:
        title = self._title(document)
        return [framed(title, document.text[c.start : c.end]) for c in chunks]

    def prompt(self, question: str, hits: Sequence[Hit], context: Context = "latents") -> Prompt:
        """What the generator reads for a question.

        Args:
            question: What is asked.
            hits: What to answer from; with none, the question is asked by itself.
            context: As in `ask`; `latents` needs hits that carry theirs.
        """
        if context == "none" or not hits:
            return Prompt(self.wording.closed(question))
        if context == "text":
            return Prompt(self._text_prompt(question, hits), n_shared=self.wording.n_shared)
        latents_CMD = _latents(hits)
        ids = self.wording.from_latents(
            question, n_documents=latents_CMD.shape[0], n_memory=latents_CMD.shape[1]
        )
        latents_SD = self.model.in_reading_order(latents_CMD)
        return Prompt(ids, latents_SD, n_shared=self.wording.n_shared)

    def text_prompt_tokens(self, question: str, hits: Sequence[Hit]) -> int:
        """Positions of a prompt that holds the stretches as text."""
        return len(self._text_prompt(question, hits))

    def _text_prompt(self, question: str, hits: Sequence[Hit]) -> tuple[int, ...]:
        passages = [framed(hit.document.title, hit.text) for hit in hits]
        return self.wording.from_text(question, passages)

    # -- the published calls ----------------------------------------------------------------------

    def generate_from_questions(
        self,
        questions: Sequence[str],
        documents: Sequence[Sequence[str]],
        max_new_tokens: int = 128,
        *,
        k: int | None = None,
    ) -> tuple[list[str], Tensor]:
        """Choose the best documents of each question's own list and answer from their latents.

        Args:
            questions: Q questions.
            documents: For each question its candidates; lists may differ in length.
            max_new_tokens: Most tokens of an answer.
            k: Candidates to answer from; as many as is best for the model if None.

        Returns:
            The answers, and (Q, k) positions of the chosen candidates by descending score, k at
            most the longest list and filled up with -1 where a question has fewer candidates.

        Raises:
            DataError: Counts differ, or a question has no document.
            ConfigError: `k` is below 1.
        """
        _check_pairs(questions, documents)
        k = self.card.top_k if k is None else k
        if k < 1:
            raise ConfigError(f"k is {k}; answer from at least one document")
        k = min(k, max((len(d) for d in documents), default=0))
        chosen = torch.full((len(questions), k), -1, dtype=torch.long)
        found = []
        query_QPD = self.reason(questions) if questions else torch.empty(0, 1, 1)
        asked = queries(self.card.score, query_QPD, n_memory=self.latent_spec.n_memory)
        for row, texts in enumerate(documents):
            hits = self._candidates(texts)
            scores = torch.tensor([_best_score(asked, row, own) for own in hits])
            best = scores.argsort(descending=True, stable=True)[:k]
            chosen[row, : len(best)] = best
            found.append([hit for i in best.tolist() for hit in hits[i]])
        return self._texts(questions, found, max_new_tokens), chosen

    def generate_from_text(
        self,
        questions: Sequence[str],
        documents: Sequence[Sequence[str]],
        max_new_tokens: int = 128,
    ) -> list[str]:
        """Answer each question from the latents of all its documents, in order.

        Raises:
            DataError: Counts differ, or a question has no document.
        """
        _check_pairs(questions, documents)
        found = [[hit for own in self._candidates(texts) for hit in own] for texts in documents]
        return self._texts(questions, found, max_new_tokens)

    def generate_from_paraphrase(
        self,
        questions: Sequence[str],
        documents: Sequence[Sequence[str]],
        max_new_tokens: int = 128,
    ) -> list[str]:
        """Put documents into other words from their latents; `questions` only sets the number.

        Raises:
            DataError: Counts differ, or a list of documents is empty.
        """
        _check_pairs(questions, documents, need_question=False)
        found = [[hit for own in self._candidates(texts) for hit in own] for texts in documents]
        prompts = []
        for hits in found:
            latents_CMD = _latents(hits)
            n_documents, n_memory, _ = latents_CMD.shape
            ids = self.wording.paraphrase(n_documents=n_documents, n_memory=n_memory)
            prompts.append(Prompt(ids, self.model.in_reading_order(latents_CMD)))
        return self._written(questions, found, prompts, max_new_tokens)

    def _candidates(self, texts: Sequence[str]) -> list[list[Hit]]:
        """Stretches of each text; one longer than the model's length has several."""
        documents = [Document(id=str(i), text=text) for i, text in enumerate(texts)]
        hits = self.read(documents)
        return [[hit for hit in hits if hit.document is document] for document in documents]

    def _texts(
        self, questions: Sequence[str], hits: Sequence[Sequence[Hit]], max_new_tokens: int
    ) -> list[str]:
        prompts = [
            self.prompt(question, own, "latents")
            for question, own in zip(questions, hits, strict=True)
        ]
        return self._written(questions, hits, prompts, max_new_tokens)

    def _written(
        self,
        questions: Sequence[str],
        hits: Sequence[Sequence[Hit]],
        prompts: list[Prompt],
        max_new_tokens: int,
    ) -> list[str]:
        if not prompts:
            return []
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {max_new_tokens}; ask for at least one token")
        answering = Answering(
            self, list(questions), [list(own) for own in hits], prompts,
            Decoding(max_new_tokens=max_new_tokens), "generator", Usage(), time.perf_counter(),
        )  # fmt: skip
        for _ in answering.steps():
            pass
        return [answer.text for answer in answering.answers()]


def _latents(hits: Sequence[Hit]) -> Tensor:
    """(C, M, D) latents of hits."""
    return torch.stack([hit.latents for hit in hits if hit.latents is not None])


def _best_score(asked: Queries, question: int, hits: Sequence[Hit]) -> float:
    latents = [hit.latents.float() for hit in hits if hit.latents is not None]
    return float(asked.exactly(question, torch.stack(latents)).max()) if latents else -1.0


def _check_pairs(
    questions: Sequence[str], documents: Sequence[Sequence[str]], *, need_question: bool = True
) -> None:
    if len(questions) != len(documents):
        raise DataError(
            f"{len(questions)} questions came with {len(documents)} lists of documents; "
            "give one list for each question"
        )
    for at, (question, texts) in enumerate(zip(questions, documents, strict=True)):
        if isinstance(texts, str):
            raise DataError(f"the documents of question {at} are one text; give a list of texts")
        if need_question and not question.strip():
            raise DataError(f"question {at} is empty; ask something")
        if not any(text.strip() for text in texts):
            raise DataError(f"question {at} has no document with text; give at least one")


def checked_n_memory(asked: int | None, card: Card) -> int:
    """The number of latents asked for, the model's own if None.

    Raises:
        ConfigError: The model has not so many.
    """
    chosen = card.default_n_memory if asked is None else asked
    if not 1 <= chosen <= card.n_memory:
        raise ConfigError(
            f"n_memory is {chosen}, this model was trained with up to {card.n_memory} memory "
            "tokens; use a number from 1 to that"
        )
    return chosen
