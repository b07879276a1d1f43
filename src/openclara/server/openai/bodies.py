"""What the compatible routes take and give.

Fields that are unknown or change nothing here are passed over, as clients send many; what asks for
something that cannot be done is refused.
"""

# Without `from __future__ import annotations`: pydantic reads annotations at run time.

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from openclara.server.bodies import HitReply, Seed, Text, TopP
from openclara.server.settings import Rewrite
from openclara.types import Context, Mode

Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Stop = Annotated[Text, Field(max_length=200)]


class Loose(BaseModel):
    """A body in which unknown fields are passed over."""

    model_config = ConfigDict(extra="ignore")


class Retrieval(Loose):
    """Fields of our own that say how to look for what is answered from."""

    k: int | None = Field(
        None, ge=1, description="Stretches to answer from; as many as is best for the model if "
        "left out.",
    )  # fmt: skip
    mode: Mode | None = None
    where: list[Text] | None = Field(None, description="Filters such as year>=2020.")
    context: Context | None = None


class Sampling(Loose):
    """What all requests for text have in common."""

    model: Text = Field(description="Name of an index.")
    max_tokens: int | None = Field(None, ge=1, description="Larger numbers are cut to the most.")
    temperature: Temperature | None = Field(None, description="Greedy if left out.")
    top_p: TopP | None = None
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    n: int | None = 1

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with what it cost."""
        return bool((self.stream_options or {}).get("include_usage"))

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)


class Part(Loose):
    """A part of a message."""

    type: str
    text: Text | None = None


class Message(Loose):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None


class ChatRequest(Sampling, Retrieval):
    """A conversation to go on with."""

    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    response_format: dict[str, Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    modalities: list[str] | None = None
    rewrite: Rewrite | None = Field(
        None,
        description="`last` searches for the last question as it stands; `conversation` adds names "
        "and terms of earlier turns where it is short or has a pronoun.",
    )

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {
                    "model": "handbook",
                    "messages": [{"role": "user", "content": "Who designed the opera house?"}],
                }
            ]
        },
    )


class CompletionRequest(Sampling, Retrieval):
    """Questions to answer, one or several."""

    prompt: Text | list[Text] | list[int] | list[list[int]]
    echo: bool | None = None
    best_of: int | None = None
    logprobs: int | None = None
    suffix: Text | None = None

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [{"model": "handbook", "prompt": "Who designed the opera house?"}]
        },
    )


class EmbeddingRequest(Loose):
    """Texts to turn into one vector each."""

    model: Text = Field(description="Name of an index, whose model is used.")
    input: Text | list[Text] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    input_type: Literal["document", "query"] | None = Field(
        None, description="Which role reads the texts; `document` if left out."
    )

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"model": "handbook", "input": ["The opera house."]}]},
    )


# ---- what comes back ----


class TokensReply(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class MessageReply(BaseModel):
    """What was answered."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """The one answer."""

    index: int
    message: MessageReply
    logprobs: None
    finish_reason: Literal["stop", "length"]


class ChatReply(BaseModel):
    """An answer, and what it was written from."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokensReply
    sources: list[HitReply]


class CompletionChoice(BaseModel):
    """The answer to one prompt."""

    index: int
    text: str
    logprobs: None
    finish_reason: Literal["stop", "length"]


class CompletionReply(BaseModel):
    """Answers, in the order of the prompts, and what they were written from."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokensReply
    sources: list[HitReply]


class Embedding(BaseModel):
    """One vector, as numbers or as base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingTokens(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingReply(BaseModel):
    """Vectors in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingTokens


class ModelReply(BaseModel):
    """An index that can be asked."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsReply(BaseModel):
    """The indexes that can be asked."""

    object: Literal["list"]
    data: list[ModelReply]
