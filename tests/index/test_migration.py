"""Folder to Milvus and back: nothing changes on the way."""

import pytest
import torch
from index_cases import SPEC, compress
from test_backends import document

from openclara.errors import ConfigError
from openclara.index import LatentIndex
from openclara.index.addresses import open_index
from openclara.index.migration import migrate
from openclara.index.quantization import dequantize, quantize
from openclara.types import Document

pytest.importorskip("milvus_lite")


@pytest.mark.parametrize("quantization", ["bf16", "int8", "int4"])
def test_there_and_back_is_lossless(tmp_path, quantization):
    first, milvus, last = str(tmp_path / "a"), f"milvus:{tmp_path / 'm.db'}", str(tmp_path / "b")
    given = [document(1), Document("empty", ""), document(2, "\0 other {}", title="T", source="s")]
    with LatentIndex.open(first, SPEC, quantization=quantization) as index:
        index.add(compress(one) for one in given)
    assert migrate(first, milvus).added == 3
    assert migrate(first, milvus).unchanged == 3
    assert migrate(milvus, last).added == 3
    with LatentIndex.open(first) as one, LatentIndex.open(last) as other:
        assert other.quantization == quantization
        assert list(other.documents()) == list(one.documents()) == given
        ids = [document.id for document in given]
        for ours, theirs in zip(one.hits(ids), other.hits(ids), strict=True):
            assert ours == theirs
            for hit, twin in zip(ours, theirs, strict=True):
                assert hit.n_tokens == twin.n_tokens
                assert hit.latents.dtype == twin.latents.dtype
                assert torch.equal(hit.latents, twin.latents)
        assert other.verify().ok
        # The very bytes: latents in the order they were added give the same shard.
        shards = [sorted(index.path.glob("latents*")) for index in (one, other)]
        assert shards[0][0].read_bytes() == shards[1][0].read_bytes()


@pytest.mark.parametrize("quantization", ["bf16", "int8", "int4"])
def test_rounding_again_changes_nothing(quantization):
    latents = torch.randn(50, 4, 80) * torch.logspace(-6, 6, 50)[:, None, None]
    latents[3, 1] = 0
    once = quantize(latents, quantization)
    again = quantize(dequantize(once, quantization, width=80), quantization)
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_an_index_is_not_copied_onto_itself(tmp_path):
    LatentIndex.open(tmp_path / "a", SPEC).close()
    with pytest.raises(ConfigError, match="name another target"):
        migrate(str(tmp_path / "a"), str(tmp_path / "a"))
    with pytest.raises(Exception, match="there is no index"):
        open_index(str(tmp_path / "none"))
