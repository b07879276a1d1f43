"""A whole synthesis: what comes out, killed or not."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import Scripted
from towns import document

from openclara.config import RunConfig, SynthesisConfig
from openclara.data.records import read_records
from openclara.errors import ConfigError, DataError, TeacherError
from openclara.synthesis.folder import owned
from openclara.synthesis.run import Watching, synthesize

TESTS = Path(__file__).parent.parent
STAGES = [f"stage{n}.{part}.jsonl.gz" for n in (1, 2, 3) for part in ("train", "held_out")]
SAME = [*STAGES, "rejected.jsonl", "passages.jsonl.gz", "report.md", "report.html"]


def lines(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def written(folder):
    return {name: (folder / name).read_bytes() for name in SAME}


def test_records_of_all_stages_hold_what_their_forms_ask_for(recipe, tmp_path):
    outcome = synthesize(recipe(), teacher=Scripted(failing=0.02))
    assert outcome.finished
    folder = tmp_path / "out"
    stage1 = lines(folder / "stage1.train.jsonl.gz")
    assert {record["data_type"] for record in stage1} == {"qa", "paraphrase"}
    for record in stage1:
        assert set(record) == {"data_type", "question", "answers", "docs"}
        assert len(record["docs"]) == 1
        assert len(record["question"]) == len(record["answers"])
    for stage, n_documents in ((2, 3), (3, 6)):
        for record in lines(folder / f"stage{stage}.train.jsonl.gz"):
            assert len(set(record["docs"])) == n_documents
            (place,) = record["pos_index"]
            assert record["answer"] in record["docs"][place]
            others = [text for at, text in enumerate(record["docs"]) if at != place]
            assert not any(record["answer"] in text.split() for text in others)
    assert len({r["pos_index"][0] for r in lines(folder / "stage3.train.jsonl.gz")}) > 2
    for name in STAGES:
        assert len(list(read_records(folder / name))) == outcome.records[name]


def test_held_out_documents_stay_out_of_training(recipe, tmp_path):
    synthesize(recipe(), teacher=Scripted())
    kept = {r["docs"][0] for r in lines(tmp_path / "out" / "stage1.held_out.jsonl.gz")}
    assert kept
    trained_on = [
        r for n in (1, 2, 3) for r in lines(tmp_path / "out" / f"stage{n}.train.jsonl.gz")
    ]
    assert not kept & {text for record in trained_on for text in record["docs"]}


def test_the_same_recipe_gives_the_same_bytes_in_any_order_of_replies(recipe, tmp_path):
    synthesize(recipe("one"), teacher=Scripted(failing=0.1, shuffled=1, width=1))
    synthesize(recipe("two"), teacher=Scripted(failing=0.1, shuffled=2, width=30))
    assert written(tmp_path / "one") == written(tmp_path / "two")


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from scripted import Scripted
from openclara.config import SynthesisConfig
from openclara.synthesis.run import synthesize
recipe = SynthesisConfig.model_validate_json(sys.argv[2])
dies_after = int(sys.argv[3]) or None
synthesize(recipe, teacher=Scripted(failing=0.1, shuffled=dies_after, dies_after=dies_after))
"""


def in_a_process(recipe, dies_after):
    arguments = [sys.executable, "-c", RUN, str(TESTS), recipe.model_dump_json(), str(dies_after)]
    return subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=120)


def test_kills_at_random_points_change_nothing(recipe, tmp_path):
    synthesize(recipe("whole", limit=10), teacher=Scripted(failing=0.1))
    rng = random.Random(4)
    n_kills = 0
    while (ended := in_a_process(recipe("killed", limit=10), rng.randrange(5, 110))).returncode:
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        n_kills += 1
        assert n_kills < 30
    assert n_kills >= 3
    assert written(tmp_path / "whole") == written(tmp_path / "killed")


def test_a_kill_while_the_records_are_written_leaves_no_half_file(recipe, tmp_path, monkeypatch):
    from openclara.synthesis import run

    def dying(*arguments, **options):
        assemble(*arguments, **options, on_passage=boom)

    def boom(composed):
        raise KeyboardInterrupt

    assemble = run.assemble
    monkeypatch.setattr(run, "assemble", lambda *a, on_passage, **o: dying(*a, **o))
    with pytest.raises(KeyboardInterrupt):
        synthesize(recipe(), teacher=Scripted())
    assert not [name for name in STAGES if (tmp_path / "out" / name).exists()]
    monkeypatch.undo()
    second = Scripted()
    synthesize(recipe(), teacher=second)
    assert second.asked == []
    synthesize(recipe("whole"), teacher=Scripted())
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_a_damaged_shard_is_made_again_from_the_cache(recipe, tmp_path):
    synthesize(recipe(), teacher=Scripted())
    before = written(tmp_path / "out")
    shard = tmp_path / "out" / "shards" / "000001.jsonl.gz"
    shard.write_bytes(shard.read_bytes()[:10])
    second = Scripted()
    synthesize(recipe(), teacher=second)
    assert second.asked == []
    assert written(tmp_path / "out") == before


def test_documents_that_change_later_do_not_change_a_run_under_way(recipe, documents, tmp_path):
    first = Scripted()
    outcome = synthesize(
        recipe(), teacher=first, watching=Watching(stop=lambda: len(first.asked) > 40)
    )
    assert not outcome.finished
    (documents / "towns.jsonl").write_text(json.dumps(document(99)) + "\n", encoding="utf-8")
    assert synthesize(recipe(), teacher=Scripted()).progress.passages == 24


def endpoint(**fields):
    return {"kind": "openai", "model": "any", **fields}


def test_a_spent_budget_stops_in_a_sentence_and_more_of_it_goes_on(recipe, tmp_path):
    first = Scripted()
    with pytest.raises(
        TeacherError, match=r"raise teacher\.budget_money and run the same"
    ) as error:
        synthesize(recipe(teacher=endpoint(budget_money=0.1)), teacher=first)
    assert "0.10 of 0.10" in str(error.value)
    assert len(first.asked) == 100
    with pytest.raises(TeacherError, match="budget_tokens"):
        synthesize(recipe(teacher=endpoint(budget_tokens=6000)), teacher=Scripted())
    second = Scripted()
    assert synthesize(recipe(teacher=endpoint(budget_money=50)), teacher=second).finished
    synthesize(recipe("whole"), teacher=Scripted())
    for name in STAGES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_failed_is_asked_again_only_on_demand(recipe):
    synthesize(recipe(), teacher=Scripted(failing=0.2))
    unmoved = Scripted()
    synthesize(recipe(), teacher=unmoved)
    assert unmoved.asked == []
    patient = Scripted()
    outcome = synthesize(recipe(retry_failed=True), teacher=patient)
    assert patient.asked
    assert outcome.progress.failed == 0


def test_other_candidates_need_no_new_replies_but_another_recipe_is_refused(recipe, tmp_path):
    synthesize(recipe(), teacher=Scripted())
    again = Scripted()
    synthesize(recipe(candidates={"k": 2, "n_candidates": 4}), teacher=again)
    assert again.asked == []
    assert len(lines(tmp_path / "out" / "stage2.train.jsonl.gz")[0]["docs"]) == 2
    with pytest.raises(ConfigError, match=r"another recipe .*seed differ"):
        synthesize(recipe(seed=5), teacher=Scripted())
    other = Scripted()
    other.fingerprint = "another prompt"
    with pytest.raises(ConfigError, match="teacher_fingerprint"):
        synthesize(recipe(), teacher=other)


def test_one_process_at_a_time(recipe, tmp_path):
    with owned(tmp_path / "out"), pytest.raises(ConfigError, match="another process"):
        synthesize(recipe(), teacher=Scripted())


def test_repeated_and_short_passages_are_left_out_and_counted(recipe, documents):
    extra = [
        {"id": "again", "text": document(3)["text"].upper()},
        {"id": "short", "text": "Too short to ask about."},
    ]
    with (documents / "towns.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(one) + "\n" for one in extra)
    seen = []
    synthesize(
        recipe(), teacher=Scripted(), watching=Watching(read=seen.append), estimate_only=True
    )
    assert (seen[0].documents, seen[0].repeated, seen[0].short) == (26, 1, 1)


def test_nothing_but_short_passages_is_an_error_that_says_so(recipe):
    with pytest.raises(DataError, match="min_words"):
        synthesize(recipe(passages={"min_words": 500}), teacher=Scripted())


def test_the_estimate_is_by_averages_first_and_by_what_was_measured_then(recipe, tmp_path):
    plans = []
    watching = Watching(planned=lambda plan, n: plans.append((plan, n)))
    teacher = endpoint(price_prompt=2.0, price_completion=8.0, requests_per_minute=60)
    asked = Scripted()
    outcome = synthesize(
        recipe(teacher=teacher), teacher=asked, watching=watching, estimate_only=True
    )
    assert not outcome.finished
    assert asked.asked == []
    assert not (tmp_path / "out").exists()
    plan, n_passages = plans[0]
    assert (plan.passages, n_passages, plan.measured_on) == (24, 24, 0)
    assert plan.money == pytest.approx(
        (2 * plan.prompt_tokens + 8 * plan.completion_tokens) / 1e6, rel=1e-3
    )
    assert plan.hours == pytest.approx(plan.tasks / 3600, rel=1e-2)

    stopping = Scripted()
    stop = Watching(stop=lambda: len(stopping.asked) > 200)
    synthesize(recipe(teacher=teacher), teacher=stopping, watching=stop)
    synthesize(recipe(teacher=teacher), teacher=asked, watching=watching, estimate_only=True)
    plan, _ = plans[1]
    assert plan.measured_on > 0
    assert plan.passages + plan.measured_on == 24


def test_candidates_are_found_by_latents_where_a_model_is_named(recipe, tiny_model, tmp_path):
    by = {"k": 3, "n_candidates": 6, "per_passage": 1, "model": str(tiny_model)}
    synthesize(recipe(candidates=by, limit=8, held_out=0.3), teacher=Scripted())
    (tmp_path / "out" / "stage3.train.jsonl.gz").rename(tmp_path / "first")
    held_out = {r["docs"][0] for r in lines(tmp_path / "out" / "stage1.held_out.jsonl.gz")}
    synthesize(recipe(candidates=by, limit=8, held_out=0.3), teacher=Scripted())
    again = tmp_path / "out" / "stage3.train.jsonl.gz"
    assert again.read_bytes() == (tmp_path / "first").read_bytes()
    for record in lines(again):
        assert not held_out & set(record["docs"])


def test_near_copies_of_the_answering_passage_never_stand_beside_it(recipe, documents, tmp_path):
    copy = document(3) | {"id": "copy"}
    copy["text"] = copy["text"].replace("In winter", "In cold winter").replace("1809", "1733")
    with (documents / "towns.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(copy) + "\n")
    synthesize(recipe(held_out=0), teacher=Scripted())
    original = f"{document(3)['title']}\n{document(3)['text']}"
    of_it = [
        record
        for record in lines(tmp_path / "out" / "stage3.train.jsonl.gz")
        if record["docs"][record["pos_index"][0]] == original
    ]
    assert of_it
    for record in of_it:
        assert not any("In cold winter" in text for text in record["docs"])


def test_all_stages_of_training_read_what_comes_out(recipe, tiny_base, tmp_path):
    from openclara.training.run import train

    synthesize(recipe(candidates={"k": 3, "n_candidates": 6}), teacher=Scripted())
    model = {"base": str(tiny_base), "n_memory": 2, "default_n_memory": 2, "rank": 2}
    parent = {"model": model | {"doc_max_length": 256}}
    for number, stage in enumerate(
        (
            {"kind": "compress"},
            {"kind": "instruct", "k": 3},
            {"kind": "joint", "k": 2, "n_candidates": 6},
        ),
        start=1,
    ):
        folder = train(
            RunConfig.model_validate(
                {
                    "output": tmp_path / stage["kind"],
                    "n_memory": [2],
                    "data_root": tmp_path / "out",
                    "stage": stage,
                    "data": [{"path": f"stage{number}.train.jsonl.gz"}],
                    "optim": {"steps": 2, "batch_tokens": 256},
                    "runtime": {"held_out": 0, "device": "cpu"},
                }
                | parent
            )
        )
        assert (folder / "adapters.safetensors").is_file()
        parent = {"init_from": str(folder)}


def test_passages_fit_the_base_whose_tokens_are_counted(recipe, tiny_base, documents):
    from openclara.synthesis.passages import read_passages
    from openclara.synthesis.run import tokenizer_of

    long = " ".join(document(number)["text"] for number in range(10))
    (documents / "long.txt").write_text(long, encoding="utf-8")
    tokenize = tokenizer_of(str(tiny_base))
    passages, _ = read_passages(recipe(passages={"doc_max_length": 200}), tokenize)
    cut = [one for one in passages if one.id.startswith("long.txt")]
    assert len(cut) > 3
    assert all(len(spans) <= 200 for spans in tokenize([one.full_text for one in passages]))
    assert " ".join(one.text for one in cut) == long


def test_a_limit_is_drawn_whatever_the_order_of_the_files(recipe, documents, tmp_path):
    from openclara.synthesis.passages import estimated_tokens, read_passages

    chosen, reading = read_passages(recipe(limit=5), estimated_tokens)
    towns = (documents / "towns.jsonl").read_text(encoding="utf-8").splitlines()
    (documents / "towns.jsonl").write_text("\n".join(reversed(towns)), encoding="utf-8")
    again, _ = read_passages(recipe(limit=5), estimated_tokens)
    assert {one.id for one in chosen} == {one.id for one in again}
    assert reading.beyond_limit == 24 - 5
    other, _ = read_passages(recipe(limit=5, seed=1), estimated_tokens)
    assert {one.id for one in other} != {one.id for one in chosen}


def test_text_that_looks_like_markup_stays_text_in_the_report(recipe, documents, tmp_path):
    bad = document(50) | {"id": "bad", "title": "<script>alert(1)</script>"}
    bad["text"] += " The sign of **it** reads <img src=x onerror=alert(1)> | Nowhere."
    (documents / "towns.jsonl").write_text(json.dumps(bad) + "\n", encoding="utf-8")
    synthesize(recipe(held_out=0), teacher=Scripted())
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;img src=x" in html
    assert "<img" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_the_report_counts_what_the_files_hold(recipe, tmp_path):
    outcome = synthesize(recipe(), teacher=Scripted(failing=0.1))
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    kept = (tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8")
    rejected = [json.loads(line) for line in kept.splitlines()]
    for reason, n in Counter(item["reason"] for item in rejected).items():
        assert f"| {reason} | {n} |" in text
    for name, n in outcome.records.items():
        assert f"| {name.replace('_', chr(92) + '_')} | {n} |" in text
    assert text.count("facts covered)") == 20
    assert "documents read | 24" in text


def test_half_characters_in_replies_and_file_names_do_no_harm(recipe, documents, tmp_path):
    class Odd(Scripted):
        def _paraphrase(self, task, spent):
            reply = super()._paraphrase(task, spent)
            return replace(reply, text=f"\ud800 {reply.text}")

    (documents / "towns.jsonl").rename(documents / os.fsdecode(b"\xff.jsonl"))
    (documents / os.fsdecode(b"\xfe.txt")).write_text(document(61)["text"], encoding="utf-8")
    assert synthesize(recipe(held_out=0), teacher=Odd()).finished
    records = lines(tmp_path / "out" / "stage1.train.jsonl.gz")
    assert any("\ufffd" in record["answers"][0] for record in records)


def test_a_recipe_takes_a_lone_path_and_refuses_unknown_fields(recipe):
    assert recipe().documents == (str(recipe().documents[0]),)
    with pytest.raises(ValueError, match="wishes"):
        SynthesisConfig.model_validate(recipe().model_dump() | {"wishes": 3})
