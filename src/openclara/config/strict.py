"""Strict, frozen trees of values, read from TOML."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from openclara.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Strict(BaseModel):
    """Unknown keys and wrong types are errors; values cannot change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


Recipe = TypeVar("Recipe", bound=Strict)


def read_recipe(
    kind: type[Recipe], path: Path, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Read a recipe and lay overrides (dotted keys) over it.

    Args:
        kind: What the file describes, `RunConfig` or `EvalConfig`.
        path: TOML file.
        overrides: Values by dotted field name.

    Raises:
        ConfigError: The file is missing, is not TOML, or a field is unknown or out of range.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no recipe {path}; the shipped ones are in recipes/") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    return _validated(kind, tree, overrides or {}, str(path))


def make_recipe(kind: type[Recipe], values: Mapping[str, Any]) -> Recipe:
    """A recipe from values alone (dotted keys), without a file.

    Raises:
        ConfigError: A field is missing, unknown or out of range.
    """
    return _validated(kind, {}, values, "the options")


def _validated(
    kind: type[Recipe], tree: dict[str, Any], overrides: Mapping[str, Any], where: str
) -> Recipe:
    # Kinds first: what else is laid over a table is meant for its new kind.
    for key in sorted(overrides, key=lambda key: not key.endswith(".kind")):
        _set(tree, key, overrides[key])
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(error)}") from None


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{dotted} does not name a field: {parent} holds a value")
    if last == "kind" and parents and tree.get(last, value) != value:
        # Another kind has other fields; those of the recipe's are not for it.
        tree.clear()
    tree[last] = value


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the recipe"
    return f"{where}: {problem['msg']} (got {problem['input']!r})"
