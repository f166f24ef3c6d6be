"""Slices are encoded when they are asked for: those first, each once, the rest behind."""

from __future__ import annotations

import subprocess
import sys
import threading

import nibabel as nib
import numpy as np
import pytest
import torch

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.switching import active_adapters
from medsam_adapter.inference.feature_store import FeatureStore
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.inference.slices import SliceEmbeddings, encode_volume
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.prompts.types import ObjectPrompt

SLICES = 10


@pytest.fixture
def model(tiny_base, randomise):
    config = MSAAdapterConfig(use_depth=True, num_slices=3, bottleneck_ratio=0.25)
    return randomise(MSAModel.from_base(tiny_base, config)).requires_grad_(False)


@pytest.fixture
def pixels():
    return torch.randn(SLICES, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def lazy(model, pixels, chunk=3, **kwargs):
    """The embeddings and the list of chunks that were asked from the source so far."""
    asked = []

    def source(first, last):
        asked.append((first, last))
        return pixels[first:last]

    return SliceEmbeddings(model, len(pixels), source, chunk, sees_neighbours=chunk > 1, **kwargs), asked


def test_only_the_chunks_that_are_needed_and_each_once(model, pixels):
    embeddings, asked = lazy(model, pixels)
    want = encode_volume(model, pixels, 3)
    assert len(embeddings) == SLICES and embeddings.shape == tuple(want.shape) and asked == []
    torch.testing.assert_close(embeddings[[4]], want[4:5])
    assert asked == [(3, 6)] and embeddings.num_encoded == 3
    torch.testing.assert_close(embeddings[[9, 5, 9]], want[[9, 5, 9]])
    assert asked == [(3, 6), (9, 10)] and embeddings.num_encoded == 4
    torch.testing.assert_close(embeddings[2:5], want[2:5])
    assert asked == [(3, 6), (9, 10), (0, 3)]


def test_the_rest_follows_outwards(model, pixels):
    embeddings, asked = lazy(model, pixels)
    seen = []
    embeddings.encode_rest(near=7, progress=lambda done, total: seen.append((done, total)))
    assert asked == [(6, 9), (3, 6), (9, 10), (0, 3)] and seen == [(3, 10), (6, 10), (7, 10), (10, 10)]
    torch.testing.assert_close(embeddings[:], encode_volume(model, pixels, 3))


def test_in_the_background(model, pixels):
    embeddings, asked = lazy(model, pixels)
    embeddings[[7]]
    embeddings.encode_rest_in_background(7)
    embeddings.encode_rest_in_background(0)  # ignored
    embeddings._background.join(timeout=60)
    assert embeddings.num_encoded == SLICES and sorted(asked) == [(0, 3), (3, 6), (6, 9), (9, 10)]
    torch.testing.assert_close(embeddings[:], encode_volume(model, pixels, 3))


@pytest.mark.parametrize("what", ["a click", "closing"])
def test_whoever_clicks_goes_first_and_closing_stops(model, pixels, what):
    """While the background is held in its first chunk, a click's chunk is encoded next; after close nothing is."""
    started, go_on, order = threading.Event(), threading.Event(), []

    def source(first, last):
        order.append(first)
        if len(order) == 1:
            started.set()
            go_on.wait(60)
        return pixels[first:last]

    embeddings = SliceEmbeddings(model, SLICES, source, 3, sees_neighbours=True)
    embeddings.encode_rest_in_background(0)
    started.wait(60)
    other = threading.Thread(target=embeddings.close if what == "closing" else lambda: embeddings[[9]])
    other.start()
    while not (embeddings._turns.background_rests or embeddings._is_closed):
        pass
    go_on.set()
    other.join(60)
    assert order[:2] == [0, 9] if what == "a click" else order == [0]
    embeddings.close()
    assert not embeddings._background.is_alive()


def test_another_adapter_between_two_clicks_changes_nothing(model, pixels):
    """All slices of one scan are of the adapter they were begun with."""
    want = encode_volume(model, pixels, 3)
    embeddings, _ = lazy(model, pixels)
    embeddings[[0]]
    model.disable_adapters()
    torch.testing.assert_close(embeddings[:], want)
    assert active_adapters(model) == [] and (encode_volume(model, pixels, 3) - want).abs().max() > 1e-3


def test_the_background_ends_when_the_model_is_switched(model, pixels):
    started, go_on = threading.Event(), threading.Event()

    def source(first, last):
        started.set()
        go_on.wait(60)
        return pixels[first:last]

    embeddings = SliceEmbeddings(model, SLICES, source, 3, sees_neighbours=True)
    embeddings.encode_rest_in_background(0)
    started.wait(60)
    model.disable_adapters()
    go_on.set()
    embeddings._background.join(60)
    assert embeddings.num_encoded == 0 and active_adapters(model) == []  # what it was at may be half of each
    model.enable_adapters()
    embeddings.encode_rest_in_background(0)
    embeddings._background.join(60)
    assert embeddings.num_encoded == SLICES


@pytest.mark.parametrize("place", [{"use_encoder": False}, {"encoder_layers": [2], "use_depth": True}])
def test_from_a_store_the_same(tiny_base, randomise, pixels, tmp_path, place):
    model = randomise(MSAModel.from_base(tiny_base, MSAAdapterConfig(num_slices=3, **place))).requires_grad_(False)
    plain, _ = lazy(model, pixels)
    for computed in (1, 0):
        store = FeatureStore(tmp_path, model)
        kept, _ = lazy(model, pixels, store=store)
        torch.testing.assert_close(kept[:], plain[:], rtol=1e-4, atol=1e-5)
        assert store.computed == computed


def test_a_click_on_one_slice_encodes_what_the_mask_reaches(model):
    """Through the predictor: the answer is that of a fully encoded volume, for a fraction of the slices."""
    data = np.random.default_rng(0).integers(-200, 300, (14, 11, 30)).astype(np.int16)
    scan = nib.Nifti1Image(data, np.diag([1.0, 1, 3, 1]))
    predictor = MSAPredictor(model, MSAProcessor.from_model(model, intensity="percentile"), device="cpu")
    whole = predictor.encode(scan, progress=lambda *_: None)
    assert whole.embeddings.num_encoded == 30
    partly = predictor.encode(scan)
    assert partly.embeddings.num_encoded == 0
    prompt = ObjectPrompt([(5.0, 5.0, 16.0)], [1])
    one = predictor.predict_objects(partly, [prompt], carry=False)
    assert partly.embeddings.num_encoded == 3
    np.testing.assert_allclose(one, predictor.predict_objects(whole, [prompt], carry=False), atol=1e-4)
    got, want = (predictor.predict_objects(encoded, [prompt]) for encoded in (partly, whole))
    np.testing.assert_allclose(got, want, atol=1e-4)

    predictor.set_volume(scan)
    embeddings = predictor.encoded.embeddings
    predictor.predict(points=[(5, 5, 16)], carry=False)
    assert embeddings._background is not None
    predictor.set_image(np.zeros((20, 30), np.uint8))  # the volume's background ends with it
    assert not embeddings._background.is_alive()


def test_a_program_may_end_while_slices_are_encoded_behind_it():
    script = """
import numpy as np
from medsam_adapter import MSAModel, MSAPredictor
predictor = MSAPredictor(MSAModel.from_base("sam-tiny"))
predictor.set_volume(np.random.default_rng(0).integers(0, 255, (400, 64, 64)).astype(np.uint8))
predictor.predict(points=[(30, 30, 200)], carry=False)
print(predictor.encoded.embeddings.num_encoded)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and int(done.stdout) < 400, done.stderr[-500:]
