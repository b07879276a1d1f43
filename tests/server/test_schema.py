"""The description of the API against the service: no answer that it does not describe."""

from __future__ import annotations

import contextlib

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:schemathesis.*")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_described(service, mode):
    description = service.client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(description)
    tried = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        # The same requests each time.
        @settings(
            max_examples=3,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            case.call_and_validate(base_url=service.url, checks=CHECKS, session=None)
            tried.add(case.operation.label)

        with contextlib.suppress(Unsatisfiable):  # there is no wrong way to ask for /healthz
            check()
    assert len(tried) > 10
    assert service.client.get("/healthz").status_code == 200
