"""Two processes under DeepSpeed's ZeRO, on a CPU, carry out the run of one.

DeepSpeed is not among what tests install, as it is built from source by what is installed before:
`DS_ACCELERATOR=cpu DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed`.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_distributed import CHAINS, STAGES, by_one, entry, launched, same
from test_run import data  # noqa: F401 - a fixture

from openclara.model.checkpoint import MANIFEST
from openclara.training.run import train

pytestmark = [
    pytest.mark.xdist_group("distributed"),
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]

RECIPES = Path(__file__).parents[2] / "recipes" / "accelerate"


@pytest.fixture(scope="module", params=[2, 3])
def runs(tiny_base, data, tmp_path_factory, request):  # noqa: F811
    """Folders of the three stages by one process, by two under ZeRO, and by both in turn."""
    root = tmp_path_factory.mktemp(f"zero{request.param}")
    recipe = by_one(root, tiny_base, data, then="one then zero")
    plan = [entry(recipe(kind, "zero", 1)) for kind in STAGES]
    plan.append(entry(recipe("instruct", "zero then one", 1), stop_after=3))
    plan.append(entry(recipe("joint", "one then zero", 2)))
    (root / "plan.json").write_text(json.dumps(plan))
    environment = {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(RECIPES / f"zero{request.param}.json"),
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
        "DS_ACCELERATOR": "cpu",
    }
    process = launched(CHAINS, root / "plan.json", environment=environment)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    position = json.loads((root / "zero then one" / "instruct" / "state.json").read_text())
    # Two micro-batches a step: DeepSpeed was there, and not two runs of one process each.
    assert (position["step"], position["micro_step"]) == (3, 6)
    assert not (root / "zero then one" / "instruct" / MANIFEST).exists()
    train(recipe("instruct", "zero then one", 1))
    return root


@pytest.mark.parametrize(
    ("who", "kind"),
    [
        *(("zero", kind) for kind in STAGES),
        ("zero then one", "instruct"),
        ("one then zero", "joint"),
    ],
)
def test_a_run_under_zero_is_the_run_of_one_process(runs, who, kind):
    # AdamW makes a step of a hundredth of a gradient that is nearly zero: there rounding shows.
    same(
        runs / "one" / kind,
        runs / who / kind,
        atol=1e-4,
        # DeepSpeed has spent the gradients when they would be measured.
        unlogged={"gradient_norm_generator", "gradient_norm_reasoner"},
    )
