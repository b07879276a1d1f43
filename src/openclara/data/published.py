"""Prompts and tokenisation of the published CLaRa code, which its checkpoints depend on.

There a prompt is rendered whole and then tokenised, so a token may span the end of the template's
words and the start of the question; here it is rendered with marks, put together again and
tokenised between marks, with the same result, but nothing the user wrote becomes a control token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import jinja2

from openclara.data import prompts
from openclara.data.tokenizer import SEP, SLOT, TextTokenizer, encodable
from openclara.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Interface facts: the published generators were trained on these very words.
SYSTEM_QA: Final = (
    "You are a helpful assistant. Your task is to extract relevant information from provided "
    "documents and to answer to questions as briefly as possible."
)
SYSTEM_QUESTIONS: Final = (
    "You are a helpful assistant. Given a document, your task is to generate some single questions "
    "to cover all key information of the document and answer them sequentially."
)
SYSTEM_PARAPHRASE: Final = (
    "You are a helpful assistant. Your task is follow the instructions to paraphrase the "
    "background information."
)
DOCS, QUESTION, ANSWER = prompts.BACKGROUND_MARK, prompts.QUESTION_MARK, prompts.ANSWER_MARK
USER_QA: Final = f"Background:\n{DOCS}\n\nQuestion:{QUESTION}"
USER_QUESTIONS: Final = f"Background:\n{DOCS}"
USER_CLOSED: Final = f"Question:{QUESTION}"
PARAPHRASES: Final = (
    f"Background: {DOCS} means the same as",
    f"Background: {DOCS} Can you put the above sentences in your own terms?",
    f"Background: {DOCS} Please provide a reinterpretation of the preceding background text.",
    f"These two expressions are equivalent in essence:\n(1) {DOCS}\n(2)",
    f"Background: {DOCS} is a paraphrase of what?",
    f"Background: {DOCS} Could you give me a different version of the background sentences above?",
    f"In other words, background: {DOCS} is just another way of saying:",
    f"You're getting across the same point whether you say background: {DOCS} or",
    f"Background: {DOCS} After unpacking the ideas in the background information above, we got:",
    f"Background: {DOCS} Please offer a restatement of the background sentences I've just read.",
    f"Background: {DOCS}, which also means:",
    f"Strip away the mystery, and you'll find background: {DOCS} is simply another rendition of:",
    f"The essence of background: {DOCS} is captured again in the following statement:",
)
"""Requests for a paraphrase; in training one was drawn for each record."""

NO_SYSTEM_ROLE: Final = "System role not supported"
"""What a template says that has no system turn; its words then open the user's turn."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """Text of the user's inside a prompt."""

    text: str


Part = str | Quoted | tuple[int, ...]
"""Words of the template, in which control tokens count; quoted text, in which none does; ids."""


class PublishedTokenizer(TextTokenizer):
    """The base's tokenizer as the published code uses it.

    Args:
        tokenizer: Made from the base's `tokenizer.json` as it is written: where transformers 5
            builds a Llama-type tokenizer anew, one leading space of each text is lost.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.bos_token is None and "qwen" in str(tokenizer.name_or_path).lower():
            # Such bases have none; the published code takes their first extra control token.
            extra = getattr(tokenizer, "extra_special_tokens", None) or ["<|im_start|>"]
            tokenizer.bos_token = str(next(iter(extra)))
        super().__init__(tokenizer)
        self._bos_text: str = tokenizer.convert_ids_to_tokens(self.bos)
        added = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
        self._control = re.compile("|".join(re.escape(text) for text in added) or "(?!)")
        self._same_after_control = self._after_control("a") == super().encode(["a"])[0]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text as it stands behind a control token, which encloses every one here."""
        ids = super().encode(texts)
        if self._same_after_control:
            return ids
        return [
            own if self._control.search(text) else self._after_control(encodable(text))
            for text, own in zip(texts, ids, strict=True)
        ]

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The end of sequence, and the template's end of turn where it is a control token."""
        rendered = render(self.inner, "", "", answer=ANSWER)
        after = rendered.partition(ANSWER)[2]
        end = self._control.match(after)
        ids = self.inner.convert_tokens_to_ids([end.group()]) if end else []
        return frozenset({self.eos, *ids})

    def compose(self, parts: Sequence[Part]) -> tuple[int, ...]:
        """Ids of a prompt; stretches of text between ids are tokenised as one."""
        ids: list[int] = []
        run: list[str | Quoted] = []
        for part in (*parts, ()):
            if isinstance(part, tuple):
                ids += self._run(run, first=not ids)
                ids += part
                run = []
            else:
                run.append(part)
        return tuple(ids)

    def _run(self, run: Sequence[str | Quoted], *, first: bool) -> list[int]:
        text, quoted = "", []
        for part in run:
            plain = encodable(part.text) if isinstance(part, Quoted) else part
            if isinstance(part, Quoted):
                quoted.append((len(text), len(text) + len(plain)))
            text += plain
        found = list(self._control.finditer(text))
        genuine = [
            match
            for match in found
            if not any(match.start() < end and start < match.end() for start, end in quoted)
        ]
        if len(genuine) == len(found):
            return self._plain(text) if first else self._after_control(text)
        # The user wrote a control token: what stands between genuine ones is tokenised as text.
        ids: list[int] = []
        at = 0
        for match in genuine:
            ids += super().encode([text[at : match.start()]])[0] if match.start() > at else []
            ids += self.inner.convert_tokens_to_ids([match.group()])
            at = match.end()
        return ids + (super().encode([text[at:]])[0] if at < len(text) else [])

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self.inner(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _after_control(self, text: str) -> list[int]:
        return self._plain(self._bos_text + text)[1:]


class PublishedWording:
    """The published prompts around latents (`USER_QA` and its kin)."""

    n_shared = 0
    """Each prompt is tokenised whole: where the template ends and a text starts is not known."""

    def __init__(self, tokenizer: PublishedTokenizer) -> None:
        self._tokenizer = tokenizer

    def from_latents(self, question: str, *, n_documents: int, n_memory: int) -> tuple[int, ...]:
        """A question on documents that are given as latents."""
        return self._ids(SYSTEM_QA, USER_QA, blocks(n_documents, n_memory), question)

    def from_text(self, question: str, passages: Sequence[str]) -> tuple[int, ...]:
        """The same question on the full texts, a blank line between them."""
        return self._ids(SYSTEM_QA, USER_QA, Quoted("\n\n".join(passages)), question)

    def closed(self, question: str) -> tuple[int, ...]:
        """A question on nothing; the published code has no such prompt."""
        return self._ids(prompts.SYSTEM_CLOSED, USER_CLOSED, (), question)

    def paraphrase(self, *, n_documents: int, n_memory: int, template: int = 0) -> tuple[int, ...]:
        """A request to put documents into other words; always the same one unless told."""
        docs = blocks(n_documents, n_memory)
        return self._ids(SYSTEM_PARAPHRASE, PARAPHRASES[template], docs, "")

    def questions(self, *, n_documents: int, n_memory: int) -> tuple[int, ...]:
        """A request for questions on documents and their answers."""
        return self._ids(SYSTEM_QUESTIONS, USER_QUESTIONS, blocks(n_documents, n_memory), "")

    def with_answer(
        self, system: str, user: str, *, docs: tuple[int, ...], question: str, answer: str
    ) -> tuple[tuple[int, ...], int]:
        """A prompt with its answer, and how many of its ids are the prompt.

        As published, the prompt is counted by itself: were a token to span its end, or the
        template to open the answer in another way, the count holds all the same.
        """
        prompt = self._ids(system, user, docs, question)
        return self._ids(system, user, docs, question, answer), len(prompt)

    def _ids(
        self,
        system: str,
        user: str,
        docs: tuple[int, ...] | Quoted,
        question: str,
        answer: str | None = None,
    ) -> tuple[int, ...]:
        mark = None if answer is None else ANSWER
        rendered = render(self._tokenizer.inner, system, user, answer=mark)
        fill: dict[str, Part] = {
            DOCS: docs, QUESTION: Quoted(question), ANSWER: Quoted(answer or ""),
        }  # fmt: skip
        pieces = re.split(f"({DOCS}|{QUESTION}|{ANSWER})", rendered)
        return self._tokenizer.compose([fill.get(piece, piece) for piece in pieces])


def blocks(n_documents: int, n_memory: int) -> tuple[int, ...]:
    """Slots of `n_documents`, each block ended by SEP, nothing in between."""
    return ((SLOT,) * n_memory + (SEP,)) * n_documents


def pairs_text(pairs: Sequence[tuple[str, str]]) -> str:
    """Questions with answers as the target of one turn."""
    return "\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in pairs)


def render(tokenizer: Any, system: str, user: str, *, answer: str | None) -> str:
    """One exchange through the base's chat template.

    Raises:
        ModelError: The template refuses it.
    """
    reply = [] if answer is None else [{"role": "assistant", "content": answer}]
    apart = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    try:
        return _templated(tokenizer, apart + reply)
    except jinja2.TemplateError as error:
        if NO_SYSTEM_ROLE not in str(error):
            raise ModelError(
                f"the base's chat template refuses the published prompts ({error}); pass base= "
                "with the base this checkpoint was trained on"
            ) from error
    joined = [{"role": "user", "content": f"{system}\n{user}"}]
    return _templated(tokenizer, joined + reply)


def _templated(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    prompt_only = messages[-1]["role"] == "user"
    text: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=prompt_only, enable_thinking=False
    )
    return text
