"""The command line in this process, a folder of documents, and an index of them."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from openclara.cli.app import run

DOCUMENTS = {
    "opera.txt": "The opera house in Sydney was designed by the architect Utzon. Open since 1973.",
    "river.txt": "The river Angara flows out of Lake Baikal and joins the Yenisei far up north.",
    "train.txt": "The first train left the station of York in the year 1825, drawn by an engine.",
}


class Result(NamedTuple):
    """What one command line did."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The one sentence that a user's error must be."""
        assert self.code == 1, self
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert "Traceback" not in self.err
        return lines[0].removeprefix("error: ")


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command line; `stdin` is what it reads there."""

    def call(*arguments: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def _filled(documents: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "my.index"
    assert run(["index", "add", str(path), str(documents), "--model", str(tiny_model)]) == 0
    return path


@pytest.fixture
def index(_filled: Path, tmp_path: Path) -> Path:
    """An index of `documents`, a copy of the test's own."""
    return Path(shutil.copytree(_filled, tmp_path / "my.index"))


@pytest.fixture(scope="session")
def other_model(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose latents differ from those of `tiny_model`."""
    from tiny import make_checkpoint

    folder = tmp_path_factory.mktemp("other-model") / "run"
    return make_checkpoint(folder, tiny_base, with_reasoner=False)
