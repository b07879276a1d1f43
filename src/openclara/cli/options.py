"""Options that several verbs share, checked before anything is loaded."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from openclara.types import Mode, Precision

AtLeastOne = Annotated[int, Parameter(validator=validators.Number(gte=1))]
Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Json = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print JSON instead.")
]


def _no_option(type_: type, value: Any) -> None:
    """Refuse a misspelt option that would else be taken for a name.

    Raises:
        ValueError: It looks like an option.
    """
    for text in value if isinstance(value, tuple) else (value,):
        if re.fullmatch(r"--?[A-Za-z][\w.=-]*", str(text)):
            raise ValueError(f"there is no option {text}")


Word = Annotated[str, Parameter(allow_leading_hyphen=True, validator=_no_option)]
"""An argument that may be `-`, standard input."""

Words = Annotated[str, Parameter(allow_leading_hyphen=True, validator=_no_option)]
"""As `Word`, for `*arguments`."""


@Parameter(name="*")
@dataclass(frozen=True)
class ModelOptions:
    """Which model, and where it runs.

    Attributes:
        model: Zoo name, run folder or hub id; the index's own if it has one, else smollm2-135m.
        base: Folder or hub id of the base model, instead of the one the model names.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: Arithmetic; int8 and int4 keep the weights of a large base in a quarter or an
            eighth of the memory of float32.
        device_map: auto spreads a base that one GPU cannot hold over all there are.
    """

    model: str | None = None
    base: str | None = None
    device: str = "auto"
    precision: Precision = "auto"
    device_map: Literal["auto"] | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class SearchOptions:
    """What is looked for.

    Attributes:
        k: Passages wanted; 5 for a search, and to answer from as many as is best for the model.
        mode: By latents, by words, or by both (hybrid). If left out, by both in a folder, and by
            latents in Milvus, which has no word index.
        where: Filter such as year>=2020; give it several times to ask for all of them.
        n_memory: Use only this many of the latents of each passage.
        exact: Score every passage, also in a folder large enough for its coarse stage.
    """

    k: Annotated[AtLeastOne | None, Parameter(name=["-k", "--k"])] = None
    mode: Mode | None = None
    where: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = ()
    n_memory: AtLeastOne | None = None
    exact: Flag = False


@Parameter(name="*")
@dataclass(frozen=True)
class EngineOptions:
    """Who compresses documents.

    Attributes:
        engine: This program by itself, or workers of Ray: on this machine, or on the cluster that
            RAY_ADDRESS names.
        workers: Workers of Ray; one for each GPU, or for every four cores, if left out.
        parts: Folder or address that all workers of Ray reach, where finished parts are kept; if
            left out they lie beside the index until it has them.
    """

    engine: Literal["plain", "ray"] = "plain"
    workers: AtLeastOne | None = None
    parts: str | None = None
