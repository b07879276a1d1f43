"""Addresses of indexes: what each names, and what is refused."""

import pytest
from index_cases import SPEC

from openclara.errors import ConfigError, IndexMismatch
from openclara.index import LatentIndex, MilvusIndex
from openclara.index.addresses import folder_of, is_index, open_index, shown, spec_at


@pytest.fixture(params=["folder", "milvus"])
def address(request, tmp_path):
    """Where there is no index yet."""
    if request.param == "folder":
        return str(tmp_path / "sub" / "i")
    pytest.importorskip("milvus_lite")
    return f"milvus:{tmp_path / 'sub' / 'i.db'}"


def test_an_index_is_made_and_opened_again(address, tmp_path):
    assert spec_at(address) is None
    assert list(tmp_path.iterdir()) == []
    with open_index(address, SPEC, quantization="int8") as index:
        assert isinstance(index, MilvusIndex if address.startswith("milvus:") else LatentIndex)
        assert str(index.path) == address
        assert index.default_mode == ("latent" if address.startswith("milvus:") else "hybrid")
    assert spec_at(address) == SPEC
    assert is_index(address)
    with open_index(address) as index:
        assert (index.spec, index.quantization) == (SPEC, "int8")
    with pytest.raises(IndexMismatch, match=f"the index {address} .* quantization=int8"):
        open_index(address, SPEC, quantization="bf16")


def test_exact_search_is_for_folders(tmp_path):
    LatentIndex.open(tmp_path / "i", SPEC).close()
    with open_index(str(tmp_path / "i"), exact=True) as index:
        assert index._coarse.from_chunks is None
    # Refused before anything is reached.
    with pytest.raises(ConfigError, match="leave --exact out"):
        open_index("milvus:http://localhost:1", exact=True)


def test_what_only_folders_have():
    assert str(folder_of("a/b")) == "a/b"
    with pytest.raises(ConfigError, match="`openclara convert milvus:http://localhost:1 FOLDER`"):
        folder_of("milvus:http://localhost:1")


def test_a_password_is_not_shown():
    assert shown("milvus:http://ann:secret@db:19530/x") == "milvus:http://***@db:19530/x"
    assert shown("http://db:19530/a@b") == "http://db:19530/a@b"
    address = "milvus:http://ann:secret@127.0.0.1:1"
    for refused in (lambda: open_index(address, exact=True), lambda: folder_of(address)):
        with pytest.raises(ConfigError) as raised:
            refused()
        assert "secret" not in str(raised.value)
