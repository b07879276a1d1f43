"""What a family of foreign checkpoints must tell, so that the rest can be done for all alike.

A family is a base causal LM with LoRA adapters in `adapters.pth` (adapter name to tensors) and the
embedding and LM head, resized for the model's own tokens, in `decoder_first_last_layers.pth`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from openclara.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from openclara.model.adapters import Role

CONFIG: Final = "config.json"
ADAPTERS: Final = "adapters.pth"
FIRST_LAST: Final = "decoder_first_last_layers.pth"
EMBEDDING: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"

Mark = Literal["AE", "ENC", "SEP", "KBTC"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the config of one checkpoint says, in our words.

    Attributes:
        base: Hub id or path of the base, as written there.
        doc_max_length: Longest document, in tokens.
        n_memory: Memory tokens behind each text.
        rank: LoRA rank of every adapter.
        alpha: LoRA alpha.
        top_k: Documents that are answered from.
        stage: The last stage trained, by our name.
        one_memory_token: The same token stands at every memory position.
        marks: Own tokens behind the memory tokens, in the order of their ids.
        roles: Which roles each adapter of the file plays.
    """

    base: str
    doc_max_length: int
    n_memory: int
    rank: int
    alpha: float
    top_k: int
    stage: str
    one_memory_token: bool
    marks: tuple[Mark, ...]
    roles: Mapping[str, tuple[Role, ...]]

    @property
    def n_memory_rows(self) -> int:
        """Rows of the vocabulary that memory tokens take."""
        return 1 if self.one_memory_token else self.n_memory

    @property
    def n_own(self) -> int:
        """Rows that the vocabulary was extended by."""
        return self.n_memory_rows + len(self.marks)


@dataclass(frozen=True, slots=True)
class PublishedLayout:
    """One family.

    Attributes:
        name: For messages.
        model_type: `model_type` of its `config.json`.
        wording: Prompts its generators were trained on (`data/wording.py`).
        settings: Reads a config.
    """

    name: str
    model_type: str
    wording: str
    settings: Callable[[Mapping[str, Any]], Settings]


def field(config: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """A field of a config.

    Raises:
        FormatError: It is missing, or not of its kind.
    """
    value = config.get(name, default)
    if isinstance(value, bool) is not (kind is bool) or not isinstance(value, kind):
        raise FormatError(
            f"`{name}` in {CONFIG} must be of type {kind.__name__}, it is {value!r}; restore the "
            "file from where it came"
        )
    return value


def number_of_memory_tokens(config: Mapping[str, Any]) -> tuple[int, int]:
    """`doc_max_length`, and the memory tokens that it and `compr_rate` make.

    Raises:
        FormatError: They make none.
    """
    length: int = field(config, "doc_max_length", int)
    rate: int = field(config, "compr_rate", int)
    if not 1 <= rate <= length:
        raise FormatError(
            f"`doc_max_length` {length} and `compr_rate` {rate} in {CONFIG} leave no memory token; "
            "restore the file from where it came"
        )
    return length, length // rate
