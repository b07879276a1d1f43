"""What a model needs is reckoned and refused before loading, and what loading is told."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from published import untied_base

from openclara.errors import ModelError
from openclara.model import available_memory, base, placement
from openclara.model.available_memory import main_memory
from openclara.model.base import find_base
from openclara.model.checkpoint import load_checkpoint
from openclara.model.memory_needs import PRECISIONS, base_shape
from openclara.model.merged import MergedRoles
from openclara.model.placement import estimates, load_roles, plan_loading
from openclara.model.unmerged import UnmergedRoles
from openclara.pipeline import Clara

LARGE = 1 << 60


@pytest.fixture
def checkpoint(tiny_model):
    return load_checkpoint(tiny_model)


@pytest.fixture
def source(tiny_base):
    return find_base(str(tiny_base))


@pytest.fixture
def free(monkeypatch):
    """Set how much memory there is."""

    def set_free(n_bytes):
        monkeypatch.setattr(placement, "available_memory", lambda device, spread=False: n_bytes)

    set_free(LARGE)
    return set_free


@pytest.fixture
def on_gpu(monkeypatch, free):
    """A machine that says it has a GPU; nothing is put on it."""
    monkeypatch.setattr(placement, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(placement, "choose_dtype", lambda device, precision: torch.bfloat16)
    monkeypatch.setattr(placement, "find_spec", lambda name: object())


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and len(text) < 500


def held(lm):
    """Bytes of the tensors of a model, shared ones once."""
    tensors = (*lm.parameters(), *lm.buffers())
    return sum(t.nbytes for t in {t.data_ptr(): t for t in tensors}.values())


# ---- what is needed ----


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_base_takes_what_was_reckoned(tiny_base, tmp_path, checkpoint, free, precision, tied):
    folder = tiny_base if tied else untied_base(tmp_path / "untied", tiny_base)
    found = find_base(str(folder))
    plan = plan_loading(found, checkpoint, device="cpu", precision=precision)
    # Without adapters, which would be counted with the roles.
    bare = dataclasses.replace(checkpoint, roles={})
    lm = load_roles(found, bare, plan).lm
    assert held(lm) == pytest.approx(plan.needs.base, rel=0.1)


def test_roles_take_what_was_reckoned(source, checkpoint, free):
    merged, adapters = (
        next(p for p in estimates(source, checkpoint, device="cpu") if p.merged is merged)
        for merged in (True, False)
    )
    roles = load_roles(source, checkpoint, adapters)
    deltas = [
        tensor
        for module in roles.lm.modules()
        for pair in getattr(module, "_deltas", {}).values()
        for tensor in pair
    ]
    assert sum(t.nbytes for t in deltas) == adapters.needs.roles
    # Three copies of the layers, and a fourth while one is packed.
    shape = base_shape(source)
    assert merged.needs.roles == 4 * 4 * sum(o * i for o, i in shape.linears_OI)


def test_a_7b_base_in_few_bits_fits_sixteen_gigabytes(tmp_path, checkpoint):
    """From a header alone, with the sizes of Mistral-7B."""
    shapes = {"model.embed_tokens.weight": [32000, 4096], "lm_head.weight": [32000, 4096]}
    for layer in range(32):
        name = f"model.layers.{layer}"
        for own, shape in {
            "self_attn.q_proj": [4096, 4096], "self_attn.k_proj": [1024, 4096],
            "self_attn.v_proj": [1024, 4096], "self_attn.o_proj": [4096, 4096],
            "mlp.gate_proj": [14336, 4096], "mlp.up_proj": [14336, 4096],
            "mlp.down_proj": [4096, 14336], "input_layernorm": [4096],
            "post_attention_layernorm": [4096],
        }.items():  # fmt: skip
            shapes[f"{name}.{own}.weight"] = shape
    header = {n: {"dtype": "BF16", "shape": s, "data_offsets": [0, 0]} for n, s in shapes.items()}
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    config = {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = base_shape(base.BaseSource("mistral", tmp_path, ""))
    gigabytes = {p: shape.weight_bytes(p, torch.bfloat16) / 1e9 for p in PRECISIONS[1:]}
    assert gigabytes["bf16"] == pytest.approx(14.48, abs=0.05)
    assert gigabytes["int8"] < 7.6
    assert gigabytes["int4"] < 4.6
    assert shape.working_bytes(torch.bfloat16, 256) < 2e9


def test_damaged_files_are_one_sentence(tiny_base, tmp_path):
    copied = shutil.copytree(tiny_base, tmp_path / "copied")
    found = find_base(str(copied))
    for name, content in (("model.safetensors", b"\xff" * 20), ("config.json", b"{}")):
        (copied / name).write_bytes(content)
        with pytest.raises(ModelError, match=r"sizes of the base .* cannot be read") as error:
            base_shape(found)
        assert one_sentence(error)


# ---- what is decided ----


def test_roles_are_merged_where_copies_fit(source, checkpoint, free):
    plans = estimates(source, checkpoint, device="cpu")
    by_kind = {(p.place.weights, p.merged): p.needs.total for p in plans}
    assert len(by_kind) == 6
    free(by_kind["fp32", True])
    plan = plan_loading(source, checkpoint, device="cpu", precision="fp32")
    assert plan.merged
    assert isinstance(load_roles(source, checkpoint, plan), MergedRoles)
    free(by_kind["fp32", True] - 1)
    plan = plan_loading(source, checkpoint, device="cpu", precision="fp32")
    assert not plan.merged
    assert isinstance(load_roles(source, checkpoint, plan), UnmergedRoles)


def test_nothing_is_loaded_where_it_does_not_fit(source, tiny_model, free, monkeypatch):
    def load(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr(placement, "load_lm", load)
    monkeypatch.setattr("openclara.model.quantized_loading.load_quantized", load)
    free(1000)
    told = []
    for precision in ("fp32", "bf16", "int8", "int4"):
        with pytest.raises(ModelError, match=r"needs about .* are free; free memory, or") as error:
            Clara.load(str(tiny_model), device="cpu", precision=precision, on_plan=told.append)
        assert one_sentence(error)
        assert "0.0 MB are free" in str(error.value)
    assert told == []


def test_the_refusal_names_the_precision_that_fits(source, checkpoint, free, monkeypatch):
    # Where a processor has no bf16 products, packed weights come with float32 arithmetic.
    monkeypatch.setattr("openclara.model.base.cpu_multiplies_bf16", lambda: True)
    plans = estimates(source, checkpoint, device="cpu")
    packed = next(p for p in plans if p.place.weights == "int8")
    free(packed.needs.total)
    with pytest.raises(ModelError, match=r"at fp32 needs .*use precision int8"):
        plan_loading(source, checkpoint, device="cpu", precision="fp32")


def test_unknown_memory_refuses_nothing(source, checkpoint, free):
    free(None)
    assert plan_loading(source, checkpoint, device="cpu").fits


def test_the_plan_is_told_before_loading(tiny_model, free):
    told = []
    Clara.load(str(tiny_model), device="cpu", precision="int4", on_plan=told.append)
    assert [plan.place.weights for plan in told] == ["int4"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"precision": "int3"}, "there is no precision 'int3'; use one of auto"),
        ({"device_map": "auto"}, "spreads a base over GPUs, and the device here is cpu"),
        ({"device_map": "balanced"}, "device_map is 'balanced'; use auto"),
        ({"device": "abacus"}, "no device 'abacus'"),
    ],
)
def test_mistakes_are_one_sentence(tiny_model, asked, said):
    with pytest.raises(ModelError, match=said) as error:
        Clara.load(str(tiny_model), **{"device": "cpu", **asked})
    assert one_sentence(error)


def test_apples_gpu_has_no_packed_weights(source, checkpoint, free, monkeypatch):
    monkeypatch.setattr(placement, "choose_device", lambda name: torch.device("mps"))
    with pytest.raises(ModelError, match="not on mps; use device cpu") as error:
        plan_loading(source, checkpoint, device="mps", precision="int8")
    assert one_sentence(error)
    plan = plan_loading(source, checkpoint, device="auto", precision="int8")
    assert plan.place.device.type == "cpu"


# ---- what transformers is told, for GPUs ----


def told_to_transformers(monkeypatch, source, checkpoint, **asked):
    plan = plan_loading(source, checkpoint, device="cuda", **asked)
    given = {}

    def from_pretrained(folder, **keywords):
        given.update(keywords)
        raise ValueError("that is all")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", from_pretrained)
    with pytest.raises(ModelError):
        load_roles(source, checkpoint, plan)
    return plan, given


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_bitsandbytes_packs_on_cuda(monkeypatch, source, checkpoint, on_gpu, precision):
    plan, given = told_to_transformers(monkeypatch, source, checkpoint, precision=precision)
    assert not plan.merged
    config = given["quantization_config"]
    assert config.load_in_8bit is (precision == "int8")
    assert config.load_in_4bit is (precision == "int4")
    if precision == "int4":
        assert config.bnb_4bit_quant_type == "nf4"
        assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert given["device_map"] == {"": torch.device("cuda")}


def test_without_bitsandbytes(monkeypatch, source, checkpoint, on_gpu):
    monkeypatch.setattr(placement, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs bitsandbytes; run `pip install") as error:
        plan_loading(source, checkpoint, device="cuda", precision="int8")
    assert one_sentence(error)
    assert len(estimates(source, checkpoint, device="cuda")) == 6


def test_a_base_is_spread_over_gpus(monkeypatch, source, checkpoint, on_gpu):
    plan, given = told_to_transformers(monkeypatch, source, checkpoint, device_map="auto")
    assert plan.place.spread
    assert not plan.merged
    assert given["device_map"] == "auto"
    assert "quantization_config" not in given


def test_a_gpu_too_small_is_told_to_spread(source, checkpoint, on_gpu, free):
    free(1000)
    with pytest.raises(ModelError, match="spread it with device_map auto"):
        plan_loading(source, checkpoint, device="cuda")


def test_memory_of_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda at: (10, 20))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(available_memory, "main_memory", lambda: 5)
    cuda = torch.device("cuda")
    assert available_memory.available_memory(cuda) == 10
    assert available_memory.available_memory(cuda, spread=True) == 35


# ---- how much there is ----

MEMINFO = "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 4000 kB\n"
FREE = 4000 * 1024


def machine(root, cgroup=""):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(MEMINFO)
    (root / "proc/self/cgroup").write_text(cgroup)
    return root


def group(root, path, **files):
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(f"{text}\n")


def test_without_groups(tmp_path):
    assert main_memory(machine(tmp_path)) == FREE
    assert main_memory(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("limit", "used", "cache", "expected"),
    [
        ("max", 500, 100, FREE),
        (1000, 500, 100, 600),
        (1000, 1500, 0, 0),
        (1 << 40, 0, 0, FREE),
        ("odd", 500, 100, FREE),
    ],
)
def test_version_2(tmp_path, limit, used, cache, expected):
    machine(tmp_path, "0::/user/job\n")
    group(tmp_path, "user/job", max=limit, current=used, stat=f"anon 1\ninactive_file {cache}")
    assert main_memory(tmp_path) == expected


def test_the_tightest_of_nested_groups_counts(tmp_path):
    machine(tmp_path, "0::/user/job\n")
    group(tmp_path, "user/job", max="max", current=10)
    group(tmp_path, "user", max=3000, current=1000)
    assert main_memory(tmp_path) == 2000


def test_inside_a_container_the_path_is_the_hosts(tmp_path):
    machine(tmp_path, "0::/../../not/here\n")
    group(tmp_path, ".", max=3000, current=1000)
    assert main_memory(tmp_path) == 2000


@pytest.mark.parametrize(("limit", "expected"), [(5000, 4500), (9223372036854771712, FREE)])
def test_version_1(tmp_path, limit, expected):
    machine(tmp_path, "3:cpu,cpuacct:/job\n5:memory:/job\n")
    group(
        tmp_path, "memory/job",
        limit_in_bytes=limit, usage_in_bytes=1500, stat="total_inactive_file 1000",
    )  # fmt: skip
    assert main_memory(tmp_path) == expected
