"""Roles beside one base: what merged copies give, switched and restored, each thread for itself."""

from __future__ import annotations

import threading

import pytest
import torch
from tiny import ALPHA, RANK, plain_lm, random_roles

from openclara.errors import ModelError
from openclara.model.adapters import ROLES
from openclara.model.merged import MergedRoles
from openclara.model.unmerged import UnmergedRoles

IDS = torch.tensor([[20, 30, 40, 50, 60, 70]])


@pytest.fixture(scope="module")
def pair(tiny_base):
    states = random_roles(plain_lm(tiny_base))
    return tuple(
        kind(plain_lm(tiny_base), states=states, scale=ALPHA / RANK)
        for kind in (MergedRoles, UnmergedRoles)
    )


def logits(roles, role):
    with torch.inference_mode(), roles.use(role) as lm:
        return lm(IDS).logits


@pytest.mark.parametrize("role", [*ROLES, None])
def test_unmerged_roles_are_merged_roles(pair, role):
    merged, unmerged = (logits(roles, role) for roles in pair)
    torch.testing.assert_close(unmerged, merged, rtol=1e-5, atol=1e-5)


def test_roles_nest_and_are_restored_even_after_an_error(pair):
    _, roles = pair
    compressor, generator, bare = (logits(roles, r) for r in ("compressor", "generator", None))
    assert (compressor - generator).abs().max() > 0.1
    with roles.use("compressor") as lm, torch.inference_mode():
        assert torch.equal(logits(roles, "generator"), generator)
        with pytest.raises(RuntimeError), roles.use("generator"):
            raise RuntimeError
        assert torch.equal(lm(IDS).logits, compressor)
    assert torch.equal(logits(roles, None), bare)


def test_threads_do_not_see_each_others_role(pair):
    _, roles = pair
    expected = logits(roles, "reasoner")
    seen = []
    with roles.use("generator"):
        thread = threading.Thread(target=lambda: seen.append(logits(roles, "reasoner")))
        thread.start()
        thread.join()
        with torch.inference_mode():
            assert not torch.equal(roles.lm(IDS).logits, expected)
    assert torch.equal(seen[0], expected)


def test_a_role_that_was_not_trained(tiny_base):
    states = random_roles(plain_lm(tiny_base), ("compressor",))
    roles = UnmergedRoles(plain_lm(tiny_base), states=states, scale=1.0)
    assert roles.trained == ("compressor",)
    with (
        pytest.raises(ModelError, match="has no generator, it has compressor"),
        roles.use("generator"),
    ):
        pass


def test_adapters_follow_the_arithmetic_of_the_base(tiny_base):
    lm = plain_lm(tiny_base, dtype=torch.bfloat16)
    roles = UnmergedRoles(lm, states=random_roles(lm), scale=ALPHA / RANK)
    assert logits(roles, "generator").dtype == torch.bfloat16
