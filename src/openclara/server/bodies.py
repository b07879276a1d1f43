"""What the routes of our own take and give, as the description of the API shows it."""

# Without `from __future__ import annotations`: pydantic reads annotations at run time.

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from openclara.index.layout import Quantization
from openclara.types import Context, MetadataValue, Mode


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character; send whole UTF-8 text") from None
    return text


Text = Annotated[str, AfterValidator(_whole)]
"""Text that can be encoded; JSON can spell some that cannot."""

Id = Annotated[Text, Field(min_length=1, max_length=1000)]
Temperature = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Stops = Annotated[list[Annotated[Text, Field(min_length=1, max_length=200)]], Field(max_length=16)]
Metadata = dict[Id, Annotated[MetadataValue, Field(union_mode="left_to_right")]]


class Request(BaseModel):
    """A body of ours: types are not guessed, and a misspelt field is an error."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Looking(Request):
    """What is looked for, and where."""

    index: Text | None = Field(None, description="May be left out where there is one.")
    question: Text
    mode: Mode = Field("hybrid", description="By latents, by words, or by both.")
    where: list[Text] = Field([], description="Filters such as year>=2020; all must hold.")


class SearchRequest(Looking):
    """A search."""

    k: int = Field(5, ge=1, description="Stretches wanted.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"question": "Who designed the opera house?", "k": 3}]}
    )


class AskRequest(Looking):
    """A question, and how it is answered."""

    k: int | None = Field(
        None, ge=1, description="Stretches to answer from; as many as is best for the model if "
        "left out.",
    )  # fmt: skip
    context: Context = Field("latents", description="What the answer is written from.")
    max_tokens: int = Field(64, ge=1)
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    seed: Seed | None = None
    stop: Stops = []
    stream: bool = Field(False, description="Send server-sent events instead.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"question": "Who designed the opera house?"}]}
    )


class NewIndex(Request):
    """An index to be made."""

    name: str = Field(examples=["handbook"])
    quantization: Quantization | None = Field(None, description="bf16 if left out.")


class NewDocument(Request):
    """A document; its id is in the address."""

    text: Text
    title: Annotated[Text, Field(max_length=2000)] = ""
    source: Annotated[Text, Field(max_length=2000)] = ""
    metadata: Metadata = {}

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"text": "The opera house was designed by Utzon.", "title": "Opera"}]
        }
    )


class NamedDocument(NewDocument):
    """A document; without an id it is called after a hash of its title and text."""

    id: Id | None = None


class NewDocuments(Request):
    """Documents to add; known ids are replaced."""

    documents: list[NamedDocument] = Field(min_length=1)

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"documents": [{"id": "opera", "text": "Utzon designed it."}]}]
        }
    )


class CompressRequest(Request):
    """Texts to compress."""

    texts: list[Text] = Field(min_length=1, examples=[["The opera house in Sydney."]])
    n_memory: int | None = Field(None, ge=1, description="The first so many latents of each text.")


class InspectRequest(Request):
    """What to look into: a question, a stored document, or one stretch of it."""

    index: Text | None = None
    question: Text | None = None
    id: Text | None = None
    start: int | None = Field(None, ge=0, description="First character of the stretch.")

    model_config = ConfigDict(json_schema_extra={"examples": [{"question": "Who designed it?"}]})


# ---- what comes back ----


class ErrorDetail(BaseModel):
    """One sentence, and what kind of failure it tells of."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """Every failure, of every route."""

    error: ErrorDetail


class HitReply(BaseModel):
    """A stretch that was found."""

    id: str
    score: float
    cosine: float | None
    title: str
    text: str
    source: str
    start: int
    end: int
    n_tokens: int
    metadata: dict[str, Any]


class UsageReply(BaseModel):
    """What an answer cost; times are milliseconds."""

    prompt_tokens: int
    completion_tokens: int
    text_prompt_tokens: int
    nominal_rate: float
    effective_rate: float
    embed_ms: float
    search_ms: float
    first_token_ms: float
    total_ms: float
    total_tokens: int


class SearchReply(BaseModel):
    """What was found, best first."""

    index: str
    question: str
    hits: list[HitReply]


class AskReply(SearchReply):
    """An answer and what it was written from."""

    answer: str
    usage: UsageReply
    finish_reason: Literal["stop", "length"]


class IndexReply(BaseModel):
    """An index in numbers."""

    name: str
    documents: int
    chunks: int
    bytes: int
    model: str
    n_memory: int
    nominal_rate: float
    quantization: Quantization
    updated: str
    writable: bool


class IndexesReply(BaseModel):
    """All indexes that are served."""

    indexes: list[IndexReply]


class ListedDocument(BaseModel):
    """A document without its text."""

    id: str
    title: str
    source: str
    n_characters: int
    metadata: dict[str, Any]


class DocumentsReply(BaseModel):
    """A page of documents, in the order their ids were first added."""

    index: str
    total: int
    limit: int
    offset: int
    documents: list[ListedDocument]


class DocumentReply(BaseModel):
    """A document."""

    id: str
    title: str
    text: str
    source: str
    metadata: dict[str, Any]


class DeletedReply(BaseModel):
    """How many documents were removed."""

    deleted: int


class SkippedFile(BaseModel):
    """A file, or a record of one, that could not be read."""

    file: str
    reason: str


class JobReply(BaseModel):
    """Documents on their way into an index; what it counts as done is on the disk."""

    id: str
    index: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    documents_done: int
    documents_total: int = Field(description="Of an upload: as many as are read so far.")
    chunks_done: int
    ids: list[str] = Field(description="Of the documents that are done, the first 1,000.")
    skipped: list[SkippedFile]
    error: ErrorDetail | None
    created: str
    finished: str | None


class JobsReply(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobReply]


class InspectReply(BaseModel):
    """What latents say, as `openclara inspect --json` prints it."""

    model: str
    inspected: list[dict[str, Any]]


class LimitsReply(BaseModel):
    """The bounds that a page should know."""

    upload_bytes: int
    question_chars: int
    k: int


class SessionReply(BaseModel):
    """What the caller may do here."""

    scopes: list[Literal["read", "write"]]
    auth: bool
    version: str
    model: str
    can_create_indexes: bool
    limits: LimitsReply


class StatusReply(BaseModel):
    """Whether the service runs."""

    status: str
