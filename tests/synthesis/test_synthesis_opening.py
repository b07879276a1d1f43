"""Recipes name teachers."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from openclara.config import SynthesisConfig, TeacherConfig, read_recipe
from openclara.config.synthesis import LocalTeacher
from openclara.errors import TeacherError
from openclara.synthesis.opening import make_teacher
from openclara.synthesis.run import synthesize


def opened(**fields):
    return make_teacher(TypeAdapter(TeacherConfig).validate_python(fields))


def test_every_kind_of_teacher_can_be_named(tiny_base):
    hosted = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "some-model"}
    assert opened(**hosted).name == "some-model"
    local = opened(kind="local", base=str(tiny_base), batch_size=2)
    assert (local.name, local.width >= 2) == (str(tiny_base), True)
    assert opened(kind="rules").name == "rules"


def test_what_may_change_between_sittings_leaves_the_fingerprint_alone():
    fields = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    same = opened(
        **fields,
        concurrency=3,
        budget_money=2.0,
        price_prompt=1.0,
        max_attempts=2,
        timeout_s=3.0,
        requests_per_minute=5,
        tokens_per_minute=500,
        api_key_env="OTHER",
    )
    assert same.fingerprint == opened(**fields).fingerprint
    assert opened(**fields, temperature=0.1).fingerprint != same.fingerprint


def test_an_address_that_is_none_is_refused():
    with pytest.raises(TeacherError, match="base_url"):
        opened(kind="openai", base_url="nowhere", model="m")


def test_rules_alone_make_data(recipe):
    outcome = synthesize(recipe())
    assert outcome.finished
    assert outcome.progress.pairs > 24
    assert outcome.progress.spent.requests == 0


def test_another_kind_of_teacher_leaves_the_fields_of_the_recipes_aside(tmp_path):
    path = tmp_path / "synthesize.toml"
    path.write_text(
        'output = "out"\ndocuments = ["docs"]\n[teacher]\nkind = "openai"\nmodel = "m"\n'
    )
    given = {"teacher.base": "smollm2-135m", "teacher.kind": "local"}
    assert read_recipe(SynthesisConfig, path, given).teacher == LocalTeacher(
        kind="local", base="smollm2-135m"
    )
    same = read_recipe(SynthesisConfig, path, {"teacher.kind": "openai", "teacher.seed": 3})
    assert (same.teacher.model, same.teacher.seed) == ("m", 3)
