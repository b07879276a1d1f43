"""The precision of a base on the command line, and what it says of memory."""

from __future__ import annotations

import json

import pytest

from openclara.cli import estimating
from openclara.model import placement

ROWS = [("fp32", "merged"), ("fp32", "adapters"), ("bf16", "merged"), ("bf16", "adapters")]
ROWS += [("int8", "adapters"), ("int4", "adapters")]


def test_info_of_a_model_says_what_it_needs(cli, tiny_model, tiny_base):
    told = json.loads(cli("info", "--model", tiny_model, "--device", "cpu", "--json").out)
    assert (told["model"], told["base"]) == (str(tiny_model), str(tiny_base))
    assert [(row["precision"], row["roles"]) for row in told["memory"]] == ROWS
    for row in told["memory"]:
        parts = row["base_bytes"] + row["roles_bytes"] + row["working_bytes"]
        assert parts == row["total_bytes"]
        assert row["fits"] is (row["available_bytes"] >= parts)
        assert row["device"] == "cpu"
    table = cli("info", "--model", tiny_model, "--device", "cpu").out
    assert table.count("adapters") == 4
    assert "free on cpu" in table


def test_memory_that_nobody_knows(cli, tiny_model, monkeypatch):
    monkeypatch.setattr(placement, "available_memory", lambda device, spread=False: None)
    asked = ("info", "--model", tiny_model, "--device", "cpu")
    assert {row["fits"] for row in json.loads(cli(*asked, "--json").out)["memory"]} == {None}
    assert "unknown" in cli(*asked).out


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_an_index_is_asked_at_another_precision(cli, index, precision):
    asked = ("search", index, "Who designed the opera house?", "-k", "1", "--json")
    hits = json.loads(cli(*asked, "--precision", precision).out)["hits"]
    assert len(hits) == 1


def test_a_large_base_is_announced_on_standard_error(cli, index, monkeypatch):
    asked = ("search", index, "opera", "--json", "--precision", "int8", "--device", "cpu")
    assert cli(*asked).err == ""
    monkeypatch.setattr(estimating, "LARGE_BASE", 1)
    result = cli(*asked)
    (line,) = result.err.splitlines()
    assert " at int8 on cpu: about " in line
    assert json.loads(result.out)["hits"]


def test_what_does_not_fit_is_refused(cli, index, monkeypatch):
    monkeypatch.setattr(placement, "available_memory", lambda device, spread=False: 1000)
    said = cli("search", index, "opera", "--device", "cpu").sentence()
    assert "needs about" in said


def test_a_map_without_gpus_is_refused(cli, index):
    said = cli("search", index, "opera", "--device", "cpu", "--device-map", "auto").sentence()
    assert "the device here is cpu" in said


def test_unknown_precisions_are_wrong_usage(cli, index):
    assert cli("search", index, "opera", "--precision", "int2").code == 2
