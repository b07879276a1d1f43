"""Workers of Ray make the records that one program makes, killed, stopped or short of money."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local_ray import local_ray
from stand_in import StandIn
from towns import document

from openclara.cli.app import run
from openclara.config import SynthesisConfig
from openclara.errors import ConfigError, TeacherError
from openclara.integrations.ray_synthesis import RaySynthesis, share
from openclara.synthesis.run import Watching, synthesize

pytestmark = [
    pytest.mark.xdist_group("distributed"),
    pytest.mark.timeout(600),
    # Ray Data sets options of its own that it calls deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
]

STAGES = [f"stage{n}.{part}.jsonl.gz" for n in (1, 2, 3) for part in ("train", "held_out")]
SAME = [*STAGES, "rejected.jsonl", "passages.jsonl.gz", "report.md", "report.html"]
KEY = "sk-never-to-be-written-7f3a"
CONCURRENCY = 4
N_PASSAGES = 8


@pytest.fixture(scope="module")
def ray():
    """Ray, stopped at the end."""
    with local_ray(KEY_OF_THE_TEACHER=KEY) as ray:
        yield ray


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """Passages in three formats."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("documents")
    records = [document(number) for number in range(N_PASSAGES)]
    lines = [json.dumps(one) for one in records[:4]]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(records[4:-1]), folder / "b.parquet")
    (folder / "c.txt").write_text(records[-1]["text"], encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def server(ray):
    """A hosted model that is slow enough to be interrupted."""
    with StandIn(latency_s=0.02, key=KEY) as server:
        yield server


def made_recipe(output, documents, server, **teacher):
    tree = {
        "output": output,
        "documents": str(documents),
        "held_out": 0.3,
        "shard_size": 2,
        "candidates": {"k": 3, "n_candidates": 6},
        "teacher": {
            "kind": "openai",
            "model": "stand-in",
            "base_url": server.url,
            "api_key_env": "KEY_OF_THE_TEACHER",
            "concurrency": CONCURRENCY,
        }
        | teacher,
    }
    return SynthesisConfig.model_validate(tree)


@pytest.fixture
def recipe(documents, server, tmp_path):
    server.answers.clear()
    server.requests.clear()
    return lambda output, **teacher: made_recipe(tmp_path / output, documents, server, **teacher)


@pytest.fixture(scope="module")
def plain(documents, server, tmp_path_factory):
    """What one program makes, and how often it asked for what."""
    folder = tmp_path_factory.mktemp("plain")
    server.answers.clear()
    assert synthesize(made_recipe(folder, documents, server)).finished
    asked = server.answers.copy()
    server.answers.clear()
    server.requests.clear()
    return written(folder), asked


def written(folder):
    return {name: (folder / name).read_bytes() for name in SAME}


def asked_twice(server, plain):
    _, answers = plain
    assert server.answers.keys() == answers.keys()
    return (server.answers - answers).total()


def writers(folder):
    """Process ids of workers by the shard they are at."""
    finished = {path.name[:6] for path in (folder / "shards").glob("*.gz")}
    names = [path.name for path in (folder / "workers" / "replies").glob("*.jsonl")]
    return {int(name[7:].partition("-")[0]) for name in names if name[:6] not in finished}


def test_a_worker_killed_in_the_middle_changes_nothing_and_no_key_is_written(
    ray, recipe, server, plain, tmp_path
):
    killed, stages = set(), []

    def moved(progress):
        stages.append(progress)
        if progress.asked > 40 and not killed and (alive := writers(tmp_path / "out")):
            killed.add(alive.pop())
            os.kill(*killed, signal.SIGKILL)

    counts = []
    make = RaySynthesis(workers=2, on_start=counts.append)
    outcome = synthesize(recipe("out"), make=make, watching=Watching(moved=moved))
    assert outcome.finished
    assert (len(killed), counts) == (1, [2])
    assert written(tmp_path / "out") == plain[0]
    # Only what was under way when it was killed was answered for nothing.
    assert asked_twice(server, plain) <= CONCURRENCY // 2
    assert server.most_at_once <= CONCURRENCY
    assert stages[-1].done == stages[-1].passages == N_PASSAGES
    # All replies are paid for, also those that a worker could not say any more; so is a request
    # that was charged, killed before its reply was written, and asked again.
    assert plain[1].total() <= stages[-1].spent.requests <= server.answers.total()
    assert not (tmp_path / "out" / "workers").exists()

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    logs = [path for path in (session / "logs").rglob("*") if path.is_file()]
    for path in [*logs, *(one for one in (tmp_path / "out").rglob("*") if one.is_file())]:
        assert KEY.encode() not in path.read_bytes(), path
    texts = document(3)["text"].encode()
    assert not any(texts in path.read_bytes() for path in logs)


DRIVER = """
import sys
from openclara.config import SynthesisConfig
from openclara.integrations.ray_synthesis import RaySynthesis
from openclara.synthesis.run import synthesize
synthesize(SynthesisConfig.model_validate_json(sys.argv[1]), make=RaySynthesis(workers=2))
"""


def test_a_driver_that_is_killed_is_gone_on_from(ray, recipe, server, plain, tmp_path):
    config = recipe("out")
    address = ray.get_runtime_context().gcs_address
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, config.model_dump_json()],
        env=os.environ | {"RAY_ADDRESS": address},
    )
    while len(server.requests) < 60 and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None
    process.kill()
    process.wait()
    begun = len(server.requests)
    outcome = synthesize(config, make=RaySynthesis(workers=2))
    assert outcome.finished
    assert written(tmp_path / "out") == plain[0]
    # What its workers asked after that is theirs, until Ray ends them.
    assert asked_twice(server, plain) <= CONCURRENCY
    assert begun < plain[1].total()


def test_a_budget_holds_for_all_workers_and_more_of_it_goes_on(
    ray, recipe, server, plain, tmp_path
):
    per_request, most = 110, 60
    with pytest.raises(TeacherError, match=r"raise teacher\.budget_tokens and run the same"):
        synthesize(recipe("out", budget_tokens=most * per_request), make=RaySynthesis(workers=2))
    assert most <= len(server.requests) < most + CONCURRENCY
    assert not (tmp_path / "out" / "report.md").exists()
    assert synthesize(recipe("out"), make=RaySynthesis(workers=2)).finished
    assert asked_twice(server, plain) == 0
    assert written(tmp_path / "out") == plain[0]


def test_either_engine_goes_on_where_the_other_was_stopped(
    ray, recipe, server, plain, tmp_path, capsys
):
    config = recipe("out")
    enough = random.Random(5).randrange(20, 50)
    stop = Watching(stop=lambda: len(server.requests) > enough)
    assert not synthesize(config, watching=stop).finished
    later = len(server.requests) + 50
    stop = Watching(stop=lambda: len(server.requests) > later)
    stopped = synthesize(config, make=RaySynthesis(workers=2), watching=stop)
    assert not stopped.finished
    assert stopped.progress.known > 0
    assert len(server.requests) < plain[1].total()
    assert synthesize(config).finished
    # What was under way when they were stopped.
    assert asked_twice(server, plain) <= 2 * CONCURRENCY
    assert written(tmp_path / "out") == plain[0]
    # Ray prints there what befalls its workers.
    assert capsys.readouterr().out == ""


def test_a_worker_that_cannot_go_on_stops_the_job_in_a_sentence(ray, recipe, server, tmp_path):
    with pytest.raises(TeacherError, match="check the model 'other'"):
        synthesize(recipe("out", model="other"), make=RaySynthesis(workers=2))
    with pytest.raises(ConfigError, match="no room for 9 workers on 2 CPUs"):
        synthesize(recipe("more"), make=RaySynthesis(workers=9))


def test_workers_share_what_a_teacher_may_do(recipe):
    teacher = recipe("out", concurrency=7, requests_per_minute=100).teacher
    shared = share(teacher, 3)
    assert (shared.concurrency, shared.requests_per_minute) == (2, 33)
    assert shared.tokens_per_minute is None
    assert share(shared, 5).concurrency == 1


def test_without_ray_there_is_one_sentence_and_nothing_is_read(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'output = "{tmp_path / "out"}"\ndocuments = "nothing"\n[teacher]\nkind = "rules"\n'
    )
    assert run(["synthesize", str(path), "--engine", "ray"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "error: engine ray needs ray; run `pip install 'openclara[ray]'`"
    ]
    assert not (tmp_path / "out").exists()
    assert run(["synthesize", str(path), "--workers", "2"]) == 2
