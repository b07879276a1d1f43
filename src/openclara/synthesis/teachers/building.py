"""One function per kind of teacher, for whoever reads a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openclara.synthesis.teachers.endpoint import EndpointTeacher
    from openclara.synthesis.teachers.local import LocalTeacher
    from openclara.synthesis.teachers.rules import RulesTeacher


def make_endpoint_teacher(
    model: str,
    *,
    base_url: str,
    key_variable: str = "OPENAI_API_KEY",
    concurrency: int = 8,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    attempts: int = 6,
    timeout_s: float = 120.0,
    temperature: float = 0.7,
    seed: int = 0,
    max_tokens: int = 1024,
    budget_tokens: int | None = None,
    budget_money: float | None = None,
    price_prompt: float = 0.0,
    price_completion: float = 0.0,
    extra_body: Mapping[str, Any] | None = None,
) -> EndpointTeacher:
    """A hosted model; arguments as of `EndpointTeacher`.

    Args:
        model: As the endpoint calls it.
        base_url: Up to and with the version.
        key_variable: Environment variable with the API key.
        concurrency: Requests under way at once.
        requests_per_minute: None is without limit.
        tokens_per_minute: None is without limit.
        attempts: Most failing requests for one task.
        timeout_s: For a whole request.
        temperature: For questions and paraphrases.
        seed: Of sampling.
        max_tokens: Most tokens of a reply.
        budget_tokens: Most tokens in all; None is without limit.
        budget_money: Most money in all; None is without limit.
        price_prompt: Money per million tokens read.
        price_completion: Money per million tokens written.
        extra_body: Further fields of each request.

    Raises:
        TeacherError: The address is none.
    """
    from openclara.synthesis.teachers.budget import Budget, Prices
    from openclara.synthesis.teachers.endpoint import EndpointTeacher

    return EndpointTeacher(
        model,
        base_url=base_url,
        key_variable=key_variable,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        attempts=attempts,
        timeout_s=timeout_s,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
        budget=Budget(budget_tokens, budget_money),
        prices=Prices(price_prompt, price_completion),
        extra_body=extra_body,
    )


def make_local_teacher(
    base: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 8,
    temperature: float = 0.0,
    seed: int = 0,
    max_tokens: int = 256,
) -> LocalTeacher:
    """A model on this machine; arguments as of `LocalTeacher`.

    Args:
        base: Zoo name, folder or hub id.
        device: `auto`, `cpu`, `cuda` and so on.
        precision: `auto`, `fp32` or `bf16`.
        batch_size: Tasks that are decoded together.
        temperature: For questions and paraphrases.
        seed: Of sampling.
        max_tokens: Most tokens of a reply.

    Raises:
        ModelError: The base or the device is not there.
    """
    from openclara.synthesis.teachers.local import LocalTeacher

    return LocalTeacher(
        base,
        device=device,
        precision=precision,
        batch_size=batch_size,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
    )


def make_rules_teacher() -> RulesTeacher:
    """The rules, which need nothing."""
    from openclara.synthesis.teachers.rules import RulesTeacher

    return RulesTeacher()
