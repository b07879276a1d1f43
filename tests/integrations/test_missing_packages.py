"""Without its package an integration says which extra to install."""

from __future__ import annotations

import importlib
import sys

import pytest

from openclara.cli.app import run
from openclara.errors import ConfigError


@pytest.fixture
def without(monkeypatch):
    """Make one package unknown, and our module that needs it unread."""

    def forget(package, module):
        for name in [*sys.modules]:
            if name == package or name.startswith(f"{package}."):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return forget


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("mcp", "mcp", "mcp"),
        ("langchain_core", "langchain", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("haystack", "haystack", "haystack"),
    ],
)
def test_the_error_names_the_extra(package, name, extra, without):
    module = f"openclara.integrations.{name}"
    without(package, module)
    with pytest.raises(ConfigError, match=rf"pip install 'openclara\[{extra}\]'"):
        importlib.import_module(module)


def test_the_command_says_so_too(without, capsys):
    without("mcp", "openclara.integrations.mcp")
    assert run(["mcp", "my.idx"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: this needs the MCP SDK")
    assert said.err.count("\n") == 1
