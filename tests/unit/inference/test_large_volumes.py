"""What keeps a large volume small in memory changes no voxel."""

from __future__ import annotations

import gzip
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medsam_adapter.data import nifti
from medsam_adapter.data.geometry import Letterbox, Turn
from medsam_adapter.data.intensity import PERCENTILES, unit_scale
from medsam_adapter.data.io import read_scan
from medsam_adapter.data.sample import Scan
from medsam_adapter.inference import kept_chunks, source_grid
from medsam_adapter.inference.kept_chunks import KeptChunks
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.inference.prompted_slices import Encoded
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.prompts.types import ObjectPrompt

INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_percentiles_by_counting_are_numpys(data):
    dtype = data.draw(st.sampled_from(INTEGERS))
    shape = data.draw(arrays.array_shapes(min_dims=3, max_dims=4, max_side=6))
    info = np.iinfo(dtype)
    low = data.draw(st.integers(max(info.min, -(2**40)), min(info.max, 2**40) - 1))
    high = data.draw(st.integers(low, min(info.max, low + data.draw(st.sampled_from([3, 4000, 2**22])))))
    array = data.draw(arrays.arrays(dtype, shape, elements=st.integers(low, high)))
    axis = (0, 1, 2) if array.ndim == 4 and dtype != np.uint8 else None
    scale = unit_scale(array, "percentile")
    # numpy subtracts in the array's own dtype, which may overflow: it is shown floats, which hold these values exactly.
    want = np.percentile(array.astype(np.float64), PERCENTILES, axis=axis)
    np.testing.assert_array_equal(np.stack([scale.low, scale.high]), want)


def test_percentiles_of_more_values_than_a_chunk(monkeypatch):
    from medsam_adapter.data import intensity

    monkeypatch.setattr(intensity, "_CHUNK_VALUES", 700)
    array = np.random.default_rng(0).normal(0, 500, (23, 17, 19)).astype(np.int16)
    scale = unit_scale(array, "percentile")
    assert [scale.low, scale.high] == list(np.percentile(array, PERCENTILES))
    bad = array.astype(np.float32)
    bad[20, 3, 3] = np.nan
    with pytest.raises(ValueError, match="not numbers"):
        unit_scale(bad, "percentile")


def test_parts_are_scaled_as_the_whole():
    array = np.random.default_rng(0).normal(0, 500, (7, 5, 6)).astype(np.int16)
    for mode, window in (("percentile", None), ("ct:liver", None), ("window", (-20, 70.5))):
        scale = unit_scale(array, mode, window)
        low, high = np.percentile(array, PERCENTILES) if mode == "percentile" else window or (-55.0, 155.0)
        want = np.clip((array.astype(np.float32) - low) / np.maximum(high - low, 1e-6), 0, 1).astype(np.float32)
        np.testing.assert_array_equal(scale(array), want)
        np.testing.assert_array_equal(
            scale(array[::-1, :, 2:].transpose(2, 0, 1)), want[::-1, :, 2:].transpose(2, 0, 1)
        )


@pytest.mark.parametrize("slope", [(1, 0), (2.5, -1024.3), (1, -1000)])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", "u1"])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_mapped_and_scaled_files_read_as_nibabel_reads_them(tmp_path, monkeypatch, slope, dtype, suffix):
    monkeypatch.setattr(nifti, "_MAP_FROM_BYTES", 1)
    values = np.random.default_rng(0).integers(0, 200, (6, 5, 4, 1)).astype(dtype)
    image = nib.Nifti1Image(values, np.diag([1, 2, 3, 1.0]), nib.Nifti1Header(endianness=dtype[0].replace("u", "<")))
    image.header.set_data_dtype(np.dtype(dtype))
    nib.save(image, tmp_path / f"a.{suffix}")
    if slope != (1, 0):  # nibabel would divide the values by it
        data = (tmp_path / f"a.{suffix}").read_bytes()
        data = bytearray(gzip.decompress(data) if suffix == "nii.gz" else data)
        data[112:120] = np.array(slope, image.header.endianness + "f4").tobytes()
        (tmp_path / f"a.{suffix}").write_bytes(gzip.compress(data) if suffix == "nii.gz" else data)
    want = np.asanyarray(nib.load(tmp_path / f"a.{suffix}").dataobj)[..., 0].T
    scan = read_scan(tmp_path / f"a.{suffix}")
    assert scan.array.dtype == (np.float32 if slope != (1, 0) else np.dtype(dtype).newbyteorder("="))
    np.testing.assert_array_equal(scan.array, want.astype(scan.array.dtype))
    is_mapped = suffix == "nii" and slope == (1, 0) and dtype != ">i2"
    assert isinstance(_base(scan.array), np.memmap) == is_mapped and type(scan.array) is np.ndarray
    scan.array[0, 0, 0] += 1  # allowed, and the file stays what it is
    np.testing.assert_array_equal(read_scan(tmp_path / f"a.{suffix}").array, want.astype(scan.array.dtype))


def _base(array: np.ndarray):
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@pytest.fixture(scope="module")
def volume() -> Scan:
    values = np.random.default_rng(0).integers(0, 60, (9, 33, 20)).astype(np.int16)
    values[2:8, 5:20, 4:14] += 300
    values[:, 22:30, 3:12] += 200
    affine = np.array([[0, 0, 1.5, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])  # turned and flipped
    return Scan(values, (1.5, 1, 1), affine)


PROMPTS = [
    ObjectPrompt([(8.0, 10.0, 4.0)], [1]),
    ObjectPrompt(boxes=[(3.0, 24.0, 0.0, 11.0, 24.0, 8.0)]),
    ObjectPrompt([(12.0, 12.0, 6.0)], [1]),
]


@pytest.mark.parametrize("chunk_bytes", [1, 10**9])
def test_labels_and_logits_by_chunks_are_those_of_the_whole(tiny_base, volume, monkeypatch, chunk_bytes):
    """The old way: everything at once, from the whole volume in [0, 1] to float32 logits of every voxel."""
    monkeypatch.setattr(source_grid, "CHUNK_BYTES", chunk_bytes)
    torch.manual_seed(0)
    asked = MSAPredictor(MSAModel.from_pretrained(tiny_base), MSAProcessor(64, "percentile"), "cpu")
    encoded = asked.encode(volume)
    source = encoded.turn.array_to_source(asked.processor.unit_intensities(volume))
    assert source.shape != volume.array.shape
    pixels = encoded.embeddings._slices_to_model
    torch.testing.assert_close(
        torch.cat([pixels(z, z + 1) for z in range(len(source))]),
        asked.processor.slices_to_model(source),
        rtol=0,
        atol=0,
    )
    small = asked._decode_objects(encoded, PROMPTS, True, None, None, None)
    want = np.stack(
        [
            encoded.turn.array_to_file(encoded.letterbox.logits_to_source(torch.from_numpy(v)[:, None])[:, 0].numpy())
            for v in small
        ]
    )
    np.testing.assert_array_equal(asked.predict_objects(encoded, PROMPTS), want)
    labels = np.where(want.max(0) > 0, want.argmax(0) + 1, 0)
    got = asked.predict_labels(encoded, PROMPTS)
    np.testing.assert_array_equal(got, labels)
    assert got.dtype == np.uint8 and got.shape == volume.array.shape and len(np.unique(labels)) > 2
    named = asked.predict_labels(encoded, PROMPTS, labels=(7, 300, 1))
    np.testing.assert_array_equal(named, np.array([0, 7, 300, 1])[labels])
    assert named.dtype == np.uint16


def test_a_label_map_takes_little_more_than_itself():
    """Of a volume of 200 slices of 256 x 256: 13 MB, where logits of every voxel would be 52 MB and more."""
    depth, side = 200, 256
    turn = Turn.none((side, side, depth))
    encoded = Encoded(None, Letterbox((side, side), 256), turn, (depth, side, side))
    logits = np.full((depth, 64, 64), -20, np.float32)
    logits[50:150, 20:40, 20:40] = 5
    asked = MSAPredictor.__new__(MSAPredictor)
    asked._decode_objects = lambda *_: [logits]
    tracemalloc.start()
    labels = asked.predict_labels(encoded, [ObjectPrompt()])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert labels[100, 120, 120] == 1 and not labels[10].any() and not labels[160].any()
    assert peak < labels.nbytes + 4 * source_grid.CHUNK_BYTES, peak  # torch's own memory is not traced


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_come_back_from_the_disk(dtype):
    generator = torch.Generator().manual_seed(0)
    chunks = [torch.randn(n, 4, 3, 3, generator=generator).to(dtype) for n in (2, 2, 2, 2, 1)]
    kept = KeptChunks(memory_bytes=2 * chunks[0].nbytes)
    for number, chunk in enumerate(chunks):
        kept[number] = chunk
        assert sum(c.nbytes for c in kept._in_memory.values()) <= 2 * chunks[0].nbytes
    assert kept.num_slices == 9 and 4 in kept and 5 not in kept
    for number in (0, 4, 1, 1, 3, 0, 2, 4):
        assert torch.equal(kept[number], chunks[number]) and kept[number].dtype == dtype
        assert len(kept._in_memory) <= 3
    written = kept._file.seek(0, 2)
    assert written == sum(chunk.nbytes for chunk in chunks)  # each once
    tight = KeptChunks(memory_bytes=0)
    tight[0] = chunks[0]
    assert torch.equal(tight[0], chunks[0])  # without a copy on the disk
    assert tight._file is None


def test_a_mask_is_the_same_with_embeddings_on_the_disk(tiny_base, volume, monkeypatch):
    asked = MSAPredictor(MSAModel.from_pretrained(tiny_base), MSAProcessor(64, "percentile"), "cpu")
    want = asked.predict_labels(asked.encode(volume), PROMPTS)
    monkeypatch.setattr(kept_chunks, "MEMORY_BYTES", 1)
    encoded = asked.encode(volume)
    np.testing.assert_array_equal(asked.predict_labels(encoded, PROMPTS), want)
    assert encoded.embeddings._chunks._file is not None
