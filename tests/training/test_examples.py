"""From files to batches: what is kept, what is held out, in which order it comes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tokenizer

from openclara.config import RunConfig
from openclara.data.prompts import PARAPHRASE_REQUEST
from openclara.data.tokenizer import TextTokenizer
from openclara.errors import DataError
from openclara.training.examples import epoch_order, load_examples

TOKENIZER = TextTokenizer(make_tokenizer())


@pytest.fixture
def loaded(tmp_path):
    """Write files of records and load them as a recipe does."""

    def load(*files, data=None, held_out=0.0, seed=42, stage=None):
        paths = []
        for at, records in enumerate(files):
            path = tmp_path / f"{at}.jsonl"
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
            paths.append({"path": path.name, **(data or {})})
        recipe = RunConfig.model_validate(
            {
                "output": tmp_path / "run",
                "stage": stage or {"kind": "compress"},
                "data": paths,
                "data_root": tmp_path,
                "model": {"doc_max_length": 32},
                "runtime": {"held_out": held_out, "seed": seed},
            },
        )
        return load_examples(recipe, TOKENIZER)

    return load


def qa(text, question="Who?", answer="He", **more):
    return {"question": question, "docs": [text], "answer": answer, **more}


def texts(examples):
    return [[TOKENIZER.decode(ids) for ids in example.texts] for example in examples]


LONG = "far too long " * 40


def test_what_was_made_here_is_found_where_the_root_has_no_such_file(loaded, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("0.jsonl").write_text(json.dumps(qa("of here")) + "\n")
    Path("made.jsonl").write_text(json.dumps(qa("made here")) + "\n")
    assert texts(loaded([qa("of the root")]).training) == [["of the root"]]
    assert texts(loaded([qa("x")], data={"path": "made.jsonl"}).training) == [["made here"]]
    with pytest.raises(DataError, match=str(tmp_path / "gone.jsonl")):
        loaded([qa("x")], data={"path": "gone.jsonl"})


def test_records_become_ids(loaded):
    found = loaded(
        [
            {
                "question": "Who?",
                "answers": ["He", "She"],
                "documents": [
                    {"title": "T", "text": "one"},
                    {"title": "", "text": "two", "gold": True},
                ],
            }
        ]
    )
    (example,) = found.training
    assert texts([example]) == [["T\none", "two"]]
    assert example.gold == (1,)
    assert example.is_question
    assert [[TOKENIZER.decode(ids) for ids in turn] for turn in example.turns] == [["Who?", "He"]]


def test_a_single_passage_is_gold(loaded):
    assert loaded([qa("one")]).training[0].gold == (0,)


def test_a_paraphrase_is_requested(loaded):
    (example,) = loaded([{"text": "a b", "paraphrase": "b a"}]).training
    assert not example.is_question
    ((request, answer),) = example.turns
    assert (TOKENIZER.decode(request), TOKENIZER.decode(answer)) == (PARAPHRASE_REQUEST, "b a")


def test_pairs_of_one_passage_are_one_example(loaded):
    (example,) = loaded([qa("one"), qa("one", "When?", "Then")]).training
    assert len(example.turns) == 2


def test_what_is_too_long_is_left_out_and_counted_not_cut(loaded):
    distracted = {
        "question": "q?",
        "docs": [LONG, "gold", "other"],
        "answer": "A",
        "pos_index": [1],
    }
    lost = {"question": "q?", "docs": [LONG, "other"], "answer": "A", "pos_index": [0]}
    found = loaded([qa(LONG), qa("short"), distracted, lost])
    assert found.n_too_long == 2
    assert texts(found.training) == [["short"], ["gold", "other"]]
    assert found.training[1].gold == (0,)


def test_nothing_that_fits_is_an_error(loaded):
    with pytest.raises(DataError, match="hold no record that fits"):
        loaded([qa(LONG)])


def test_no_source_of_that_name_is_an_error(loaded):
    with pytest.raises(DataError, match=r"check .*sources"):
        loaded([qa("one", source="squad")], data={"sources": ["trivia"]})


def test_sources_are_chosen_by_their_beginning(loaded):
    records = [qa(name, source=name) for name in ("squad-1", "squad-2", "trivia", "")]
    found = loaded(records, data={"sources": ["squad", "tri"]})
    assert texts(found.training) == [["squad-1"], ["squad-2"], ["trivia"]]


def test_a_limit_is_drawn_by_seed(loaded):
    records = [qa(f"passage {i}") for i in range(30)]
    first = texts(loaded(records, data={"limit": 5}).training)
    assert len(first) == 5
    assert texts(loaded(records, data={"limit": 5}).training) == first
    assert texts(loaded(records, data={"limit": 5}, seed=7).training) != first


def test_repeat_goes_through_a_file_again(loaded):
    assert texts(loaded([qa("a"), qa("b")], data={"repeat": 2}).training) == [["a"], ["b"]] * 2


def test_held_out_passages_are_never_trained_on(loaded):
    records = [qa(f"passage {i}") for i in range(200)]
    again = [qa(f"passage {i}", "When?", "Then") for i in reversed(range(200))]
    paraphrases = [{"text": f"passage {i}", "paraphrase": "words"} for i in range(200)]
    found = loaded(records, again, paraphrases, data={"repeat": 2}, held_out=0.2)
    trained = {text for row in texts(found.training) for text in row}
    held = {text for row in texts(found.held_out) for text in row}
    assert not trained & held
    assert trained | held == {f"passage {i}" for i in range(200)}
    assert 20 < len(held) < 60


def test_the_gold_passage_decides_what_is_held_out(loaded):
    def asked(i, distractor):
        docs = [f"passage {distractor}", f"passage {i}"]
        return {"question": "q?", "docs": docs, "answer": "A", "pos_index": [1]}

    first = loaded([asked(i, i + 1) for i in range(100)], held_out=0.2)
    second = loaded([asked(i, i + 2) for i in range(100)], held_out=0.2)
    gold = [{row[1] for row in texts(found.held_out)} for found in (first, second)]
    assert gold[0] == gold[1]
    assert gold[0]


# ---- order ----


@given(
    costs=st.lists(st.integers(1, 400), min_size=1, max_size=60),
    batch_cost=st.integers(64, 1000),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_an_epoch_is_a_permutation_within_the_budget(costs, batch_cost, seed, epoch):
    order = epoch_order(costs, batch_cost=batch_cost, seed=seed, epoch=epoch)
    assert sorted(at for batch in order for at in batch) == list(range(len(costs)))
    for batch in order:
        padded = max(costs[at] for at in batch) * len(batch)
        assert batch
        assert padded <= batch_cost or len(batch) == 1
    assert order == epoch_order(costs, batch_cost=batch_cost, seed=seed, epoch=epoch)


def test_epochs_and_seeds_differ_and_batches_hold_like_costs():
    rng = random.Random(0)
    costs = [rng.randint(1, 100) for _ in range(3000)]
    orders = [
        epoch_order(costs, batch_cost=1000, seed=seed, epoch=epoch)
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({str(order) for order in orders}) == 3
    padded = sum(max(costs[at] for at in batch) * len(batch) for batch in orders[0])
    assert padded < 1.1 * sum(costs)
    assert orders[0] != sorted(orders[0], key=lambda batch: costs[batch[0]])
