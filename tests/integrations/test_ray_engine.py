"""Workers of Ray make the index that one program makes, also when they are killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal

import pytest
import torch
from local_ray import local_ray

from openclara.cli.app import run
from openclara.data.reading import read_documents
from openclara.errors import DataError, ModelError
from openclara.index import LatentIndex
from openclara.index.parts import PartFolder
from openclara.integrations.ray_engine import ModelChoice, RayWorkers
from openclara.pipeline import Clara
from openclara.pipeline.compressing import windows
from openclara.types import Document

# Two workers and a model each: never beside another test of this kind.
pytestmark = [pytest.mark.xdist_group("distributed"), pytest.mark.timeout(900)]

WORDS = ("opera", "house", "Sydney", "river", "train", "station", "Utzon", "designed", "bridge")
N_DOCUMENTS = 1300


@pytest.fixture(scope="module")
def ray():
    """Ray, stopped at the end."""
    with local_ray() as ray:
        yield ray


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A thousand records, many of them of several chunks, in three formats."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("sources")
    chance = random.Random(7)

    def record(i):
        text = " ".join(chance.choices(WORDS, k=chance.randint(3, 60)))
        return {"id": f"d{i}", "title": f"Part {i % 7}", "text": text, "year": i}

    records = [record(i) for i in range(N_DOCUMENTS)]
    half = N_DOCUMENTS // 2
    with (folder / "a.jsonl").open("w") as file:
        file.writelines(json.dumps(one) + "\n" for one in records[:half])
    pq.write_table(pa.Table.from_pylist(records[half:]), folder / "b.parquet")
    (folder / "c.txt").write_text("The opera house in Sydney was designed by Utzon.")
    return folder


@pytest.fixture(scope="module")
def plain(sources, tiny_model, tmp_path_factory):
    """The index that this program makes by itself."""
    path = tmp_path_factory.mktemp("plain") / "index"
    clara = Clara.load(str(tiny_model), device="cpu", precision="bf16")
    with LatentIndex.open(path, clara.latent_spec) as index:
        index.add(clara.compress(read_documents(sources)))
    return path


def shown(capsys, *arguments):
    """What a command that must succeed prints, as JSON."""
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def contents(path):
    """All that an index holds, in its order: documents, chunks, latents to the bit."""
    with LatentIndex.open(path) as index:
        documents = list(index.documents())
        rows = []
        for document, hits in zip(
            documents, index.hits([one.id for one in documents]), strict=True
        ):
            spans = [(hit.start, hit.end, hit.text) for hit in hits]
            latents = [hit.latents.view(torch.int16).numpy().tobytes() for hit in hits]
            rows.append((document, spans, latents))
        assert index.verify().ok
    return rows


def test_a_worker_killed_in_the_middle_changes_nothing(
    ray, sources, plain, tiny_model, tmp_path, capsys
):
    alive, killed = set(), set()

    def made(part):
        alive.add(part.process)

    def documents():
        for number, document in enumerate(read_documents(sources)):
            # What was read before is compressed at this moment.
            if number > N_DOCUMENTS * 3 // 4 and alive and not killed:
                killed.add(alive.pop())
                os.kill(*killed, signal.SIGKILL)
            yield document

    parts = PartFolder(str(tmp_path / "parts"))
    choice = ModelChoice(str(tiny_model), device="cpu", precision="bf16")
    progress = []
    with RayWorkers(choice, parts, count=2, keep=True) as workers:
        with LatentIndex.open(tmp_path / "index", workers.latent_spec) as index:
            stream = workers.compress(
                documents(),
                on_progress=lambda *counts: progress.append(counts),
                on_part=made,
            )
            report = index.add(stream)
        names = parts.names()
        workers.keep = False
        what_was_read_before_an_error_comes_first(workers)
    assert ray.is_initialized()
    assert len(killed) == 1
    assert report.added == N_DOCUMENTS + 1
    assert [sum(column) for column in zip(*progress, strict=True)] == [
        N_DOCUMENTS + 1,
        report.chunks,
    ]
    assert contents(tmp_path / "index") == contents(plain)
    # Each window once, under the number it was read by.
    expected = list(
        windows(read_documents(sources), doc_max_length=workers.latent_spec.doc_max_length)
    )
    assert [int(name.split("-")[1]) for name in names] == list(range(len(expected)))
    assert len(expected) > 6

    join = ("index", "join", tmp_path / "joined", tmp_path / "parts", "--json")
    assert shown(capsys, *join)["added"] == N_DOCUMENTS + 1
    assert contents(tmp_path / "joined") == contents(plain)
    assert shown(capsys, *join)["unchanged"] == N_DOCUMENTS + 1


def what_was_read_before_an_error_comes_first(workers):
    """Here because workers take long to start."""

    def damaged():
        yield Document("first", "The river is long.")
        raise DataError("the next file is damaged")

    made = []
    with pytest.raises(DataError, match="the next file is damaged"):
        made.extend(item.document.id for item in workers.compress(damaged()))
    assert made == ["first"]


def test_the_command_adds_what_is_new_and_leaves_no_parts(
    ray, sources, plain, tiny_model, tmp_path, capsys
):
    index = shutil.copytree(plain, tmp_path / "index")
    new = tmp_path / "new.jsonl"
    new.write_text('{"id": "new", "text": "The river is long."}\n{}\n')
    command = ["index", "add", index, sources, new, "--engine", "ray", "--workers", "1"]
    report = shown(capsys, *command, "--device", "cpu", "--json")
    assert (report["added"], report["unchanged"], len(report["skipped"])) == (1, N_DOCUMENTS + 1, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "new.jsonl"]
    assert contents(index)[:-1] == contents(plain)


def test_a_model_that_is_not_there_starts_no_worker(tmp_path):
    choice = ModelChoice(str(tmp_path / "nothing"), device="cpu")
    with (
        pytest.raises(ModelError, match="there is no trained model"),
        RayWorkers(choice, PartFolder(str(tmp_path / "parts"))),
    ):
        pytest.fail("started")
