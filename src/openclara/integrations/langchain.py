"""An index in LangChain: its passages as a retriever, answers from its latents as a chat model.

    clara = Clara.load("smollm2-135m")
    index = LatentIndex.open("my.idx", clara.latent_spec)
    documents = ClaraRetriever(clara=clara, index=index, k=5).invoke("Who designed it?")
    answer = ChatClara(clara=clara, index=index).invoke("Who designed it?").text

Both take all standard calls (`invoke`, `batch`, `stream`, their async forms, `bind`, `|`); any
number of threads may use one model, which works for one of them at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openclara.errors import ConfigError, DataError
from openclara.index import LatentIndex  # noqa: TC001 - pydantic reads the fields
from openclara.integrations import turns
from openclara.integrations.passages import metadata, passage_id, response_metadata
from openclara.model.generator import Decoding
from openclara.pipeline import Clara  # noqa: TC001
from openclara.types import Context, Mode  # noqa: TC001

try:
    from langchain_core.documents import Document
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables.config import run_in_executor
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "langchain_core":
        raise
    raise ConfigError("this needs LangChain; run `pip install 'openclara[langchain]'`") from None

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForLLMRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.messages import BaseMessage

    from openclara.integrations.turns import Turns
    from openclara.types import Hit

SETTINGS = frozenset(
    {"k", "context", "mode", "where", "n_memory", "max_tokens", "temperature", "top_p", "seed"}
)
"""What `ChatClara.bind` and the calls may change."""


class ClaraRetriever(BaseRetriever):
    """Passages of an index.

    Each has its text as `page_content` and, in `metadata`, the document's own fields with `id`,
    `title`, `source`, `start`, `end` (characters) and `score`.

    Attributes:
        clara: The model that made the index.
        index: Where to look.
        k: Passages wanted; `invoke(question, k=3)` asks for another number once.
        mode: `hybrid`, `latent` or `lexical`.
        where: Filters such as `year>=2020` that must all hold; `invoke` takes them too.
        n_memory: Use only this many of the stored latents.
    """

    clara: Clara
    index: LatentIndex
    k: int = 5
    mode: Mode = "hybrid"
    where: tuple[str, ...] = ()
    n_memory: int | None = None

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        where: Sequence[str] | None = None,
    ) -> list[Document]:
        hits = turns.search(
            self.clara,
            self.index,
            query,
            k=self.k if k is None else k,
            mode=self.mode,
            where=self.where if where is None else where,
            n_memory=self.n_memory,
        )
        return [_document(hit) for hit in hits]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        where: Sequence[str] | None = None,
    ) -> list[Document]:
        return await run_in_executor(
            None,
            self._get_relevant_documents,
            query,
            run_manager=run_manager.get_sync(),
            k=k,
            where=where,
        )


class ChatClara(BaseChatModel):
    """Answers from the latents of what an index holds about the question.

    The question is the last message of the user; the model was trained on single questions, so
    earlier turns and system messages are not read. What was found (`hits`), what it cost (`usage`)
    and why the answer ended (`finish_reason`) are in `response_metadata`.

    Attributes:
        clara: The model that made the index.
        index: Where to look.
        k: Passages to answer from; as many as is best for the model if None.
        context: `latents`; `text` gives the same generator the full passages; `none` nothing.
        mode: `hybrid`, `latent` or `lexical`.
        where: Filters such as `year>=2020` that must all hold.
        n_memory: Use only this many of the stored latents.
        max_tokens: Most tokens of an answer.
        temperature: 0 always takes the likeliest token.
        top_p: Sample from the smallest set of tokens with this much probability.
        seed: Makes sampling repeatable.
    """

    clara: Clara
    index: LatentIndex
    k: int | None = None
    context: Context = "latents"
    mode: Mode = "hybrid"
    where: tuple[str, ...] = ()
    n_memory: int | None = None
    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def _llm_type(self) -> str:
        return "openclara"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        # LangChain's cache of answers is keyed by these.
        settings = {name: getattr(self, name) for name in sorted(SETTINGS)}
        return {
            "model_name": self.clara.latent_spec.model,
            "fingerprint": self.clara.latent_spec.fingerprint,
            "index": str(self.index.path),
            "updated": self.index.info().updated,
            **settings,
        }

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **settings: Any,
    ) -> ChatResult:
        answered = self._turns(messages, stop, settings)
        text = answered.finished().text
        message = AIMessage(text, **self._about(answered))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **settings: Any,
    ) -> Iterator[ChatGenerationChunk]:
        answered = self._turns(messages, stop, settings)
        for piece in answered:
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        last = AIMessageChunk(content="", chunk_position="last", **self._about(answered))
        yield ChatGenerationChunk(message=last)

    def _turns(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, settings: dict[str, Any]
    ) -> Turns:
        # `stream` is LangChain's own word between its calls.
        unknown = sorted(settings.keys() - SETTINGS - {"stream"})
        if unknown:
            raise ConfigError(
                f"ChatClara has no setting {unknown[0]!r}; it has {', '.join(sorted(SETTINGS))}"
            )
        now = self.model_copy(update={k: v for k, v in settings.items() if k in SETTINGS})
        return turns.stream(
            now.clara,
            now.index,
            _question(messages),
            k=now.k,
            context=now.context,
            mode=now.mode,
            where=now.where,
            n_memory=now.n_memory,
            decoding=Decoding(now.max_tokens, now.temperature, now.top_p, now.seed),
            stops=stop or (),
        )

    def _about(self, answered: Turns) -> dict[str, Any]:
        """What a message says beside its text."""
        usage = answered.answer.usage
        return {
            "response_metadata": {
                "model_name": self.clara.latent_spec.model,
                **response_metadata(answered),
            },
            "usage_metadata": UsageMetadata(
                input_tokens=usage.prompt_tokens,
                output_tokens=usage.completion_tokens,
                total_tokens=usage.prompt_tokens + usage.completion_tokens,
            ),
        }


def _document(hit: Hit) -> Document:
    return Document(hit.text, id=passage_id(hit), metadata=metadata(hit))


def _question(messages: Sequence[BaseMessage]) -> str:
    last = messages[-1] if messages else None
    if not isinstance(last, HumanMessage):
        raise DataError("the last message is not the user's; end with the question")
    if any(isinstance(block, dict) and block.get("type") != "text" for block in last.content):
        raise DataError("the question holds more than text; this model reads text only")
    return str(last.text)
