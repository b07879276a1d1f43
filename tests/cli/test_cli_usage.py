"""Help, wrong usage, and what is not imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import openclara

VERBS = [
    ["demo"],
    ["index", "add"],
    ["index", "info"],
    ["index", "delete"],
    ["index", "compact"],
    ["index", "verify"],
    ["index", "join"],
    ["search"],
    ["ask"],
    ["inspect"],
    ["mcp"],
    ["serve"],
    ["keys", "add"],
    ["keys", "list"],
    ["keys", "remove"],
    ["train"],
    ["eval"],
    ["convert"],
    ["export", "hub"],
    ["info"],
    ["synthesize"],
    ["adapt"],
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_of_every_verb(cli, verb):
    result = cli(*verb, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: openclara {' '.join(verb)}")


def test_help_lists_every_verb_and_no_other(cli):
    shown = cli("--help").out
    for verb in {verb[0] for verb in VERBS}:
        assert f"│ {verb} " in shown
    assert cli().out == shown


def test_version(cli):
    assert cli("--version").out.strip() == openclara.__version__


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["index", "nope"],
        ["index", "add"],
        ["index", "add", "i"],
        ["index", "delete", "i"],
        ["search", "i"],
        ["ask", "i", "Who?", "more"],
        ["ask", "i", "Who?", "--k", "0"],
        ["ask", "i", "Who?", "--k", "many"],
        ["ask", "i", "Who?", "--mode", "psychic"],
        ["ask", "i", "--jsn"],
        ["index", "add", "i", "f", "--on-unreadable", "cry"],
        ["train", "r.toml", "--optim.lrr", "1"],
        ["train", "r.toml", "--optim.lr"],
        ["train", "r.toml", "steps"],
    ],
    ids=" ".join,
)
def test_wrong_usage(cli, arguments):
    result = cli(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert "--help`" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_unknown_option(cli, verb):
    needed = {"search": ["i", "q"], "ask": ["i", "q"], "train": ["r"], "demo": [], "info": []}
    arguments = needed.get(verb[0], ["i"])
    assert cli(*verb, *arguments, "--no-such-option", "1").code == 2


def test_heavy_imports_are_lazy():
    program = """
import contextlib, io, json, sys
import openclara
from openclara import Answer, Document, Hit, LatentSpec
from openclara.cli.app import run
with contextlib.redirect_stdout(io.StringIO()):
    for line in (["--help"], ["index", "add", "--help"], ["ask", "--help"], ["train", "--help"]):
        assert run(line) == 0
heavy = ("torch", "transformers", "peft", "accelerate", "numpy", "pydantic")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


def test_public_names():
    nouns = ["Answer", "Clara", "Document", "Hit", "LatentIndex", "LatentSpec"]
    assert openclara.__all__ == [*nouns, "read_documents", "train"]
    for name in openclara.__all__:
        assert getattr(openclara, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        openclara.nothing  # noqa: B018


def test_as_a_program(index):
    command = [sys.executable, "-m", "openclara", "search", str(index), "architect", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["hits"]
