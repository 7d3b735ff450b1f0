import functools

import gguf
import numpy as np
import pytest

from tasks.lm.gguf import _in_pieces, _NumpyWithoutNeedlessCopies, _QuickReader, only_layers, quick_gguf


@pytest.fixture
def path(tmp_path):
    """A small GGUF file with a vocabulary and two tensors, one in blocks."""
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_token_list(["a", "é", "ccc"])
    writer.add_array("numbers", [1.5, 2.5])
    writer.add_tensor("plain", np.arange(6, dtype=np.float32).reshape(2, 3))
    blocks = gguf.quantize(np.arange(64, dtype=np.float32).reshape(2, 32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("packed", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "tiny.gguf"


def test_the_quick_reader_reads_what_the_library_reads(path):
    quick, plain = _QuickReader(path), gguf.GGUFReader(path)
    assert list(quick.fields) == list(plain.fields)
    for name, field in plain.fields.items():
        assert quick.fields[name].contents() == field.contents()
        assert [part.tobytes() for part in quick.fields[name].parts] == [part.tobytes() for part in field.parts]
    for ours, theirs in zip(quick.tensors, plain.tensors, strict=True):
        assert (ours.name, ours.tensor_type) == (theirs.name, theirs.tensor_type)
        np.testing.assert_array_equal(ours.data, theirs.data)


def test_the_library_is_as_it_was_after_a_quick_load_even_if_it_failed():
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    with pytest.raises(KeyError), quick_gguf():
        assert isinstance(gguf.GGUFReader, functools._lru_cache_wrapper)
        raise KeyError
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before


def test_of_later_layers_no_tensors_are_found_where_only_the_first_are_wanted(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "layers.gguf", "llama")
    names = ["token_embd.weight", "blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.10.attn_q.weight", "output.weight"]
    for name in names:
        writer.add_tensor(name, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    def found():
        return [tensor.name for tensor in gguf.GGUFReader(tmp_path / "layers.gguf").tensors]

    with quick_gguf():
        with only_layers(2):
            assert found() == ["token_embd.weight", "blk.0.attn_q.weight", "blk.1.attn_q.weight", "output.weight"]
        assert found() == names


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1", "BF16", "F16", "F32"])
@pytest.mark.parametrize("shape", [(64,), (7, 64), (3, 5, 64)], ids=str)
def test_what_is_unpacked_in_pieces_is_what_the_library_unpacks(kind, shape, monkeypatch):
    kind = gguf.GGMLQuantizationType[kind]
    packed = gguf.quantize(np.random.default_rng(0).standard_normal(shape, dtype=np.float32), kind)
    for piece_bytes in (1, 100, 2**20):
        monkeypatch.setattr("tasks.lm.gguf._PIECE_BYTES", piece_bytes)
        found, expected = _in_pieces(gguf.dequantize)(packed, kind), gguf.dequantize(packed, kind)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)


def test_an_array_is_copied_only_where_its_memory_is_anothers():
    numpy, own = _NumpyWithoutNeedlessCopies(), np.arange(6.0).reshape(2, 3).copy()
    assert numpy.copy(own) is own
    for view in (own[:1], own.T, np.frombuffer(b"abcd", np.float32)):
        assert not np.shares_memory(numpy.copy(view), view)
    assert numpy.empty is np.empty
