import pytest
import torch
from index_cases import SPEC, compress

from openclara.errors import ConfigError
from openclara.index import LatentIndex
from openclara.index.filters import Filter
from openclara.types import Document


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    documents = [
        Document("a", "alpha shared", "First", "wiki/a", {"year": 2019, "lang": "en", "ok": True}),
        Document(
            "b", "beta shared", "Second", "wiki/b", {"year": 2020.0, "lang": "de", "ok": False}
        ),
        Document("c", "gamma shared", "", "web/c", {"year": "2020", "lang": None, 'od"d\\ é': 1}),
        Document("d", "delta shared", "It's", "web/d", {"year": 10**30, "lang": "x'); DROP TABLE"}),
        Document("007", "epsilon shared", "a=b", "", {}),
    ]
    with LatentIndex.open(tmp_path_factory.mktemp("f") / "i", SPEC) as index:
        index.add(compress(document, size=100) for document in documents)
        yield index


def ids(index, *where):
    return [document.id for document in index.documents(where=where)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("year>=2020", "b d"),
        ("year>2019", "b d"),
        ("year<2020", "a"),
        ("year<=2020", "a b"),
        ("year=2020", "b c"),
        ("year = 2020.0 ", "b"),
        ('year="2020"', "c"),
        ("year!=2020", "a d 007"),
        ('year>="2"', "c"),
        ("lang=en", "a"),
        ("lang!=en", "b c d 007"),
        ("lang=null", "c"),
        ("lang=x'); DROP TABLE", "d"),
        ("lang~DROP", "d"),
        ("ok=true", "a"),
        ("ok=false", "b"),
        ("ok=1", ""),
        ("id=007", "007"),
        ("id=7", ""),
        ("id>b", "c d"),
        ("title=", "c"),
        ("title=It's", "d"),
        ("title=a=b", "007"),
        ("title!=First", "b c d 007"),
        ("source~wiki", "a b"),
        ("source~WIKI", ""),
        ("source~%", ""),
        ('od"d\\ é=1', "c"),
        ("year') OR 1=1 --=3", ""),
        ("nothing=1", ""),
    ],
)
def test_a_filter_selects(index, where, expected):
    assert ids(index, where) == expected.split()


def test_filters_are_joined_by_and(index):
    assert ids(index, "source~wiki", "year>=2020") == ["b"]
    assert ids(index) == ["a", "b", "c", "d", "007"]


@pytest.mark.parametrize("bad", ["", "year", ">=2020", "=x", "  = x", "year 2020", "!x"])
def test_a_malformed_filter_says_the_form(index, bad):
    with pytest.raises(ConfigError, match=r"a filter is FIELD, one of"):
        ids(index, bad)


def test_a_string_is_not_a_list_of_filters(index):
    with pytest.raises(ConfigError, match="in a list"):
        index.documents(where="year>2020")


@pytest.mark.parametrize("call", ["documents", "search", "delete"])
def test_every_door_refuses_a_malformed_filter_at_once(index, call):
    arguments = {"search": (["shared"], torch.ones(1, 4, 8)), "documents": (), "delete": ()}[call]
    options = {"k": 1} if call == "search" else {}
    with pytest.raises(ConfigError):
        getattr(index, call)(*arguments, where=["bad"], **options)


@pytest.mark.parametrize("mode", ["latent", "lexical", "hybrid"])
def test_filters_hold_before_ranking(index, mode):
    for name, text in [("a", "alpha shared"), ("c", "gamma shared"), ("007", "epsilon shared")]:
        # The best hit without the filter is another document, and k is 1.
        latents = compress(Document("b", "beta shared"), size=100).latents
        [unfiltered] = index.search(["beta shared"], latents, k=1, mode=mode)
        [hits] = index.search(
            ["beta shared"], latents, k=1, mode=mode, where=[f'id="{name}"'], pool=1
        )
        assert [hit.document.id for hit in unfiltered] == ["b"]
        assert [(hit.document.id, hit.text) for hit in hits] == [(name, text)]


@pytest.mark.parametrize("mode", ["latent", "lexical", "hybrid"])
def test_a_filter_that_nothing_passes_finds_nothing(index, mode):
    assert index.search(["shared"], torch.ones(1, 4, 8), k=3, mode=mode, where=["id=zz"]) == [[]]


@pytest.mark.parametrize(
    ("value", "number"),
    [("12", 12), ("-1.5", -1.5), (".5", 0.5), ("1e3", 1000.0), ("9" * 30, 1e30)]
    + [(text, None) for text in ("nan", "inf", "1_0", "٣", '"1"', "0x1", "")],
)
def test_what_counts_as_a_number(value, number):
    assert Filter("f", "=", value).number == number
