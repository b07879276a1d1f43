"""The two paths of the gradient to the reasoner, against formulas and transformers alone."""

from __future__ import annotations

import random

import pytest
import torch
from tiny import make_tokenizer, plain_lm, random_roles, tiny_clara_model

from openclara.config import CompressStage, JointStage, SupervisedStage
from openclara.data.tokenizer import TextTokenizer
from openclara.model.adapters import ROLES
from openclara.training.coupling import Coupling, Paths, answer_log_likelihoods, role_norms
from openclara.training.examples import Example
from openclara.training.loop import trained_parameters
from openclara.training.stages import Collator, StageModule

TOKENIZER = TextTokenizer(make_tokenizer())
TEMPERATURE, N_MEMORY = 0.5, 3
TEXTS = ["The opera house is by Utzon.", "A river.", "Trains leave at nine.", "It was in 1973."]
ASKED = [("Who designed it?", "Utzon"), ("When does it leave?", "At nine, or so they say")]
CLOSE = {"rtol": 1e-3, "atol": 1e-7}


def examples():
    texts = tuple(TOKENIZER.encode(TEXTS))
    return [
        Example(texts, (gold,), (tuple(TOKENIZER.encode(pair)),), True, held_out=False)
        for gold, pair in zip((0, 2), ASKED, strict=True)
    ]


def joint(k):
    return JointStage(kind="joint", k=k, n_candidates=4, temperature=TEMPERATURE)


def batch_of(stage, seed=0):
    rng = random.Random(seed)
    return Collator(stage, TOKENIZER).batch(examples(), n_memory=N_MEMORY, rng=rng)


def module(base, stage, *, dropout=0.0):
    built = StageModule(tiny_clara_model(base, merged=False, dropout=dropout), stage)
    trained_parameters(built)
    built.train()
    built.watching = True
    return built


def log_likelihoods_by_hand(base, latents_BNMD):
    """log p(answer | question, one candidate), token by token, through transformers alone."""
    generator = plain_lm(base, random_roles(plain_lm(base))["generator"])
    words = generator.get_input_embeddings().weight
    sep = tiny_clara_model(base).memory.weight.detach()[2:3]
    chat = TOKENIZER.chat
    table = torch.zeros(latents_BNMD.shape[:2], dtype=torch.float64)
    for b, pair in enumerate(ASKED):
        question, answer = TOKENIZER.encode(pair)
        written = [*answer, TOKENIZER.eos]
        after = [*chat.before_question, *question, *chat.before_answer, *written]
        for n, latents_MD in enumerate(latents_BNMD[b]):
            parts = [words[list(chat.before_background)], latents_MD, sep, words[after]]
            with torch.inference_mode():
                logits = generator(inputs_embeds=torch.cat(parts)[None]).logits[0].double()
            predicting = logits[-len(written) - 1 : -1].log_softmax(-1)
            table[b, n] = sum(row[i] for row, i in zip(predicting, written, strict=True))
    return table


def by_hand(base, built, batch):
    """Leaves and the loss of both paths, each step written out once more."""
    model = built.model
    with torch.no_grad():
        latents_RMD = model.encode(batch.documents, "compressor").latents_RMD
        query_BMD = model.encode(batch.questions, "reasoner").latents_RMD
    latents_BNMD = latents_RMD.view(2, 4, *latents_RMD.shape[1:])
    query_BMD = query_BMD.clone().requires_grad_()
    scores_BN = torch.stack(
        [
            torch.stack([torch.cosine_similarity(q.flatten(), z.flatten(), dim=0) for z in own])
            for q, own in zip(query_BMD, latents_BNMD, strict=True)
        ]
    )
    taken, weights = torch.zeros_like(scores_BN), []
    for _ in range(built.stage.k):
        soft = torch.softmax(scores_BN / TEMPERATURE + torch.log(1 - taken + 1e-8), dim=1)
        hard = torch.nn.functional.one_hot(
            (scores_BN - 9 * taken).argmax(1), scores_BN.shape[1]
        ).float()
        weights.append(hard + soft - soft.detach())
        taken = taken + hard
    selected_BKMD = torch.einsum("bkn,bnmd->bkmd", torch.stack(weights, 1), latents_BNMD)
    read = built._answer(batch, selected_BKMD.flatten(0, 1)).total
    n_labels = sum(len(TOKENIZER.encode([answer])[0]) + 1 for _, answer in ASKED)
    likelihood_BN = log_likelihoods_by_hand(base, latents_BNMD)
    log_prior_BN = torch.log_softmax(scores_BN.double() / TEMPERATURE, dim=1)
    chosen = -torch.logsumexp(log_prior_BN + likelihood_BN, dim=1).sum() / n_labels
    return query_BMD, scores_BN, selected_BKMD, latents_BNMD, read, chosen


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_paths_sum_to_the_gradient_of_both_losses(tiny_base, k):
    built, batch = module(tiny_base, joint(k)), batch_of(joint(k))
    query_BMD, scores_BN, _, _, read, chosen = by_hand(tiny_base, built, batch)
    loss = built(batch)
    torch.testing.assert_close(loss.total, read, rtol=1e-4, atol=1e-6)
    loss.total.backward()
    found = built.coupling.paths()
    for name, tensor in (("scores", scores_BN), ("query", query_BMD)):
        paths = found[name]
        whole, first, second = (
            torch.autograd.grad(part, tensor, retain_graph=True)[0]
            for part in (read + chosen, read, chosen)
        )
        torch.testing.assert_close(paths.representation, first, **CLOSE)
        torch.testing.assert_close(paths.probability, second, **CLOSE)
        torch.testing.assert_close(paths.representation + paths.probability, whole, **CLOSE)
        assert all(part.abs().max() > 1e-6 for part in (first, second))


@pytest.mark.parametrize("k", [1, 3])
def test_the_representation_path_is_the_formula_of_the_paper(tiny_base, k):
    """-(1/t) sum over slots of pi_d g.(z_d - r), with pi and r of each slot."""
    built, batch = module(tiny_base, joint(k)), batch_of(joint(k))
    _, scores_BN, selected_BKMD, latents_BNMD, read, _ = by_hand(tiny_base, built, batch)
    (minus_g_BKMD,) = torch.autograd.grad(read, selected_BKMD)
    expected = torch.zeros(2, 4)
    for b in range(2):
        taken = torch.zeros(4)
        for j in range(k):
            pi = torch.softmax(scores_BN[b].detach() / TEMPERATURE + (1 - taken + 1e-8).log(), 0)
            r = sum(weight * z for weight, z in zip(pi, latents_BNMD[b], strict=True))
            for d, z in enumerate(latents_BNMD[b]):
                expected[b, d] += pi[d] * (minus_g_BKMD[b, j] * (z - r)).sum() / TEMPERATURE
            taken[(scores_BN[b] - 9 * taken).argmax()] = 1
    built(batch).total.backward()
    torch.testing.assert_close(built.coupling.paths()["scores"].representation, expected, **CLOSE)


def test_the_probability_path_is_the_formula_of_the_paper(tiny_base):
    """-(1/t) p(d|x) [p(y|x,d) - p(y|x)] / p(y|x), as printed."""
    built, batch = module(tiny_base, joint(2)), batch_of(joint(2))
    _, scores_BN, _, latents_BNMD, _, _ = by_hand(tiny_base, built, batch)
    built(batch).total.backward()
    n_labels = int(batch.prompts.target_mask_BT.sum())
    likelihood_BN = log_likelihoods_by_hand(tiny_base, latents_BNMD).exp()
    for b, found_N in enumerate(built.coupling.paths()["scores"].probability):
        prior_N = torch.softmax(scores_BN[b].detach().double() / TEMPERATURE, 0)
        whole = prior_N @ likelihood_BN[b]
        expected_N = -prior_N * (likelihood_BN[b] - whole) / whole / TEMPERATURE / n_labels
        torch.testing.assert_close(found_N.double(), expected_N, **CLOSE)


@pytest.mark.parametrize("k", [1, 3])
def test_likelihoods_given_one_candidate(tiny_base, k):
    built, batch = module(tiny_base, joint(k)), batch_of(joint(k))
    with torch.no_grad():
        latents_RMD = built.model.encode(batch.documents, "compressor").latents_RMD
    latents_BNMD = latents_RMD.view(2, 4, *latents_RMD.shape[1:])
    found_BN = answer_log_likelihoods(built.model, batch.prompts, latents_BNMD)
    expected_BN = log_likelihoods_by_hand(tiny_base, latents_BNMD)
    torch.testing.assert_close(found_BN.double(), expected_BN, rtol=1e-4, atol=1e-4)


def gradients(built, batch):
    torch.manual_seed(7)
    built(batch).total.backward()
    return {
        f"{role}.{name}": parameter.grad
        for role in ROLES
        for name, parameter in built.model.roles.named_parameters(role).items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_watching_changes_no_bit_of_what_is_learned(tiny_base, dtype):
    """Nor the dropout masks of later passes; under autocast as well."""
    both = []
    for watching in (True, False):
        built = module(tiny_base, joint(2), dropout=0.3)
        built.watching = watching
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            both.append(gradients(built, batch_of(joint(2))))
        both[-1]["rng"] = torch.get_rng_state()
        assert (built.coupling is not None) == watching
        assert all(part.training for part in built.modules())
    for name, tensor in both[0].items():
        assert (tensor is None) == (both[1][name] is None) == name.startswith("compressor")
        assert tensor is None or torch.equal(tensor, both[1][name]), name


@pytest.mark.parametrize(
    "stage",
    [CompressStage(kind="compress"), SupervisedStage(kind="supervised", n_candidates=3)],
    ids=lambda stage: stage.kind,
)
def test_other_stages_are_not_looked_into(tiny_base, stage):
    built = module(tiny_base, stage)
    built(batch_of(stage)).total.backward()
    assert built.coupling is None


def test_a_divided_loss_is_scaled_back(tiny_base):
    whole, half = (module(tiny_base, joint(2)) for _ in range(2))
    whole(batch_of(joint(2))).total.backward()
    (half(batch_of(joint(2))).total / 4).backward()
    expected, found = whole.coupling.metrics(), half.coupling.metrics(scale=4)
    assert found == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}


def test_nothing_to_choose_nothing_to_learn(tiny_base):
    single = JointStage(kind="joint", k=1, n_candidates=1, temperature=TEMPERATURE)
    built = module(tiny_base, single)
    built(batch_of(single)).total.backward()
    assert set(built.coupling.metrics().values()) == {0.0}


def test_it_is_known_after_the_backward_pass_only(tiny_base):
    built = module(tiny_base, joint(1))
    built(batch_of(joint(1)))
    assert isinstance(built.coupling, Coupling)
    with pytest.raises(ValueError, match="after the backward pass"):
        built.coupling.metrics()


def test_metrics_by_hand():
    paths = Paths(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    assert paths.metrics("scores") == pytest.approx(
        {
            "gradient_scores_representation": 5.0,
            "gradient_scores_probability": 2.0,
            "gradient_scores_coupled": 29**0.5,
            "gradient_scores_agreement": 0.0,
        }
    )
    opposite = Paths(torch.tensor([1e-20]), torch.tensor([-1e-22]))
    assert opposite.metrics("x")["gradient_x_agreement"] == pytest.approx(-1.0)


def test_norms_of_the_roles():
    tensors = {name: torch.zeros(2, requires_grad=True) for name in ("a.x", "a.y.z", "b.x", "c.x")}
    for name, gradient in (("a.x", [1.0, 2.0]), ("a.y.z", [2.0, 0.0]), ("b.x", [0.0, 0.5])):
        tensors[name].grad = torch.tensor(gradient)
    assert role_norms(tensors) == pytest.approx({"gradient_norm_a": 3.0, "gradient_norm_b": 0.5})
