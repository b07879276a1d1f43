"""Losses of each stage and their gradients, by the code that trains."""

from __future__ import annotations

import pytest
import torch
from recorded import ADAPTER, STAGES, Recording, requires_recordings

from openclara.config import CompressStage, InstructStage, JointStage, SupervisedStage
from openclara.training.batches import StageBatch
from openclara.training.stages import StageModule

pytestmark = requires_recordings

STAGE = {
    "stage1": CompressStage(kind="compress"),
    "stage1_2": InstructStage(kind="instruct", k=2),
    "stage2": JointStage(kind="joint", k=2),
}
BATCHES = [
    ("stage1", "batch_qa"),
    ("stage1", "batch_qa_k1"),
    ("stage1", "batch_paraphrase"),
    ("stage1_2", "batch_qa"),
    ("stage2", "batch_qa"),
]


def stage_batch(recording: Recording, batch: str) -> StageBatch:
    documents = recording.text_batch(f"{batch}/enc_")
    n_rows = recording.tensors[f"{batch}/dec_input_ids"].shape[0]
    n_documents = documents.ids_RT.shape[0] // n_rows
    questions = relevant_BN = None
    if recording.stage == "stage2":
        questions = recording.text_batch(f"{batch}/query_")
        gold = recording.record["batches"]["qa"]["pos_index"]
        relevant_BN = torch.tensor([[i in own for i in range(n_documents)] for own in gold])
    return StageBatch(
        documents,
        recording.prompt_batch(batch),
        (n_documents,) * n_rows,
        questions,
        relevant_BN,
    )


def compare_gradients(recording, model, roles, prefix):
    """Relative error of each tensor's norm."""
    compared = 0
    for role in roles:
        for name, parameter in model.roles.named_parameters(role).items():
            theirs = recording.gradients[f"{prefix}/{_theirs(name, role)}"]
            error = (parameter.grad - theirs).norm() / theirs.norm().clamp(min=1e-12)
            assert error <= 1e-4, (role, name, error)
            compared += 1
    assert compared == len([n for n in recording.gradients if n.startswith(f"{prefix}/")])


def _theirs(name, role):
    for side in ("A", "B"):
        name = name.replace(f".lora_{side}.", f".lora_{side}.{ADAPTER[role]}.")
    return name


def compare_norms(recording, model, roles, recorded):
    for role in roles:
        gradients = [p.grad.flatten() for p in model.roles.named_parameters(role).values()]
        ours, theirs = torch.cat(gradients).norm().item(), recorded[ADAPTER[role]]
        share = 0.15 if role == "reasoner" else 0.05
        assert abs(ours - theirs) <= share * theirs, (role, ours, theirs)


@pytest.mark.parametrize(("stage", "batch"), BATCHES)
def test_losses_and_gradients(recording, batch):
    model = recording.training_model()
    module = StageModule(model, STAGE[recording.stage])
    roles = module.trained_roles
    model.roles.train_only(roles)
    loss = module(stage_batch(recording, batch))
    recorded = recording.record["forward"][batch]
    within = recording.within
    assert abs(loss.parts["answer"] - recorded["loss"]) <= within.loss
    if "alignment" in loss.parts:
        assert abs(loss.parts["alignment"] - recorded["mse_loss"]) <= within.mse
        total = recorded["total_loss_ce_plus_0.1_mse"]
        assert abs(loss.total.item() - total) <= within.loss
    loss.total.backward()
    which = "ce" if recording.stage == "stage2" else "total"
    if recording.precision == "fp32":
        compare_gradients(recording, model, roles, f"{batch}/{which}")
    else:
        compare_norms(recording, model, roles, recorded[f"grad_norm_{which}"])
    frozen = [role for role in ADAPTER if role not in roles]
    assert all(p.grad is None for r in frozen for p in model.roles.named_parameters(r).values())


@pytest.mark.parametrize("precision", ["fp32"])
@pytest.mark.parametrize(("stage", "batch"), BATCHES[:4])
def test_gradients_of_the_answer_alone(recording, batch):
    model = recording.training_model()
    stage = STAGE[recording.stage].model_copy(update={"alignment": 0.0})
    module = StageModule(model, stage)
    model.roles.train_only(module.trained_roles)
    module(stage_batch(recording, batch)).total.backward()
    compare_gradients(recording, model, module.trained_roles, f"{batch}/ce")


@pytest.mark.parametrize("precision", ["fp32"])
@pytest.mark.parametrize(("stage", "batch"), [BATCHES[0], BATCHES[2]])
def test_gradients_of_the_memory_tokens(recording, batch):
    model = recording.training_model()
    module = StageModule(model, STAGE["stage1"])
    model.roles.train_only(module.trained_roles)
    module(stage_batch(recording, batch)).total.backward()
    theirs = recording.tensors[f"{batch}/embed_grad_mem_rows_total"]
    ours = model.memory.weight.grad[-theirs.shape[0] :]
    assert (ours - theirs).norm() / theirs.norm() <= 1e-4
    # On purpose: SEP and ENC learn here as well; there only memory tokens do, in stage 1 alone.
    assert model.memory.weight.grad[2:4].abs().max() > 0


@torch.no_grad()
@pytest.mark.parametrize(("stage", "batch"), BATCHES[:4])
def test_loss_of_each_token(recording, batch):
    model = recording.clara.model
    own = stage_batch(recording, batch)
    latents_SD = model.in_reading_order(model.encode(own.documents, "compressor").latents_RMD)
    logits_LV, targets_L = model.answer_logits(own.prompts, latents_SD)
    ours_L = torch.nn.functional.cross_entropy(logits_LV.float(), targets_L, reduction="none")
    theirs_L = recording.tensors[f"{batch}/token_nll"]
    assert (ours_L - theirs_L).abs().max() <= recording.within.nll


@pytest.mark.parametrize("stage", STAGES[-1:])
def test_the_contrastive_stage(recording):
    """Their retrieval warm-up, whose gradient they lose; with one positive it is ours."""
    model = recording.training_model()
    module = StageModule(model, SupervisedStage(kind="supervised"))
    model.roles.train_only(module.trained_roles)
    loss = module(stage_batch(recording, "batch_qa"))
    recorded = recording.record["stage2_pretrain_retrieval"]
    # Scores are divided by 0.02, so their tolerance counts fifty times.
    assert abs(loss.total.item() - recorded["loss"]) <= 50 * recording.within.scores + 1e-4
    loss.total.backward()
    norms = recorded["grad_norm_if_adapters_reactivated_before_backward"]
    compare_norms(recording, model, ("reasoner",), norms)
    if recording.precision == "fp32":
        compare_gradients(recording, model, ("reasoner",), "pretrain_retrieval/reactivated")
