"""The fingerprint says what the training cases are, turned to one orientation, and survives a file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from blobs import LPS, PERMUTED, RAS, blob, write_blobs
from medsam_adapter.data.fingerprint import Fingerprint, take_fingerprint
from medsam_adapter.data.layouts.base import Dataset
from medsam_adapter.data.sample import Case, Sample, Scan
from medsam_adapter.errors import DataError


class InMemory(Dataset):
    """A data set of samples that lie in memory."""

    def read(self, case):
        return self.samples[case.case_id]


def in_memory(samples, tmp_path, **fields) -> Dataset:
    for number, sample in enumerate(samples):
        sample.case_id = str(number)
    cases = [Case(sample.case_id, tmp_path / sample.case_id, tmp_path / "labels") for sample in samples]
    names = {} if fields.get("instances") else {1: "shell", 2: "core"}
    dataset = InMemory("set", tmp_path, cases, names, **fields)
    dataset.samples = {sample.case_id: sample for sample in samples}
    return dataset


def test_shapes_and_spacings_are_those_of_one_orientation(tmp_path):
    samples = [
        blob(0, (10, 20, 18), (3.0, 1.0, 0.5), LPS),
        blob(1, (10, 20, 18), (3.0, 1.0, 0.5), RAS),
        blob(2, (20, 10, 18), (1.0, 3.0, 0.5), PERMUTED),  # file axes x, y, z point to P, S, R
    ]
    dataset = write_blobs(tmp_path, samples)
    found = take_fingerprint(dataset, dataset.cases)
    assert found.shapes == ((10, 20, 18), (10, 20, 18), (10, 18, 20))
    np.testing.assert_allclose(found.spacings_mm, [(3, 1, 0.5), (3, 1, 0.5), (3, 0.5, 1)], atol=1e-6)
    assert found.median_shape == (10, 20, 18) and found.median_spacing_mm == pytest.approx((3, 1, 0.5))
    assert found.targets == {"whole": (1, 2), "core": (2,)} and found.num_cases == 3
    assert (found.channels, found.is_picture, found.is_ct, found.orientation) == (1, False, False, "LPS")


def test_only_the_given_cases_count(tmp_path):
    dataset = in_memory([blob(0), blob(1, (30, 30, 30))], tmp_path)
    assert take_fingerprint(dataset, dataset.cases[:1]).shapes == ((14, 22, 18),)


def test_intensities_are_those_within_the_targets(tmp_path):
    sample = blob(0)
    dataset = in_memory([sample], tmp_path, modality="CT")
    found = take_fingerprint(dataset, dataset.cases, targets={"core": (2,)})
    inside = sample.scan.array[sample.labels == 2]
    (channel,) = found.statistics
    assert found.is_ct
    assert (channel.mean, channel.std) == pytest.approx((inside.mean(), inside.std()), rel=1e-5)
    assert (channel.low, channel.high) == pytest.approx(tuple(np.percentile(inside, (0.5, 99.5))), rel=1e-5)


def test_ct_is_what_the_data_set_says(tmp_path):
    for fields, is_ct in (({"intensity": "ct:liver"}, True), ({"modality": "CT and MRI"}, False), ({}, False)):
        dataset = in_memory([blob(0)], tmp_path, **fields)
        assert take_fingerprint(dataset, dataset.cases).is_ct is is_ct, fields


def test_zeros_round_the_object_are_noticed(tmp_path):
    sample = blob(0)
    sample.scan.array[:, :12] = 0
    dataset = in_memory([sample, blob(1), blob(2)], tmp_path)
    assert not take_fingerprint(dataset, dataset.cases).has_outside  # the typical case is full
    assert take_fingerprint(dataset, dataset.cases[:1]).has_outside


def test_grey_pictures_among_coloured_ones_count_as_coloured(tmp_path):
    pictures = [blob(0, (1, 30, 40), axes=None, channels=3), blob(1, (1, 30, 40), axes=None)]
    found = take_fingerprint(*(lambda d: (d, d.cases))(in_memory(pictures, tmp_path)))
    assert found.channels == 3 and len(found.statistics) == 3 and found.is_picture


def test_the_trip_through_a_file_loses_nothing(tmp_path):
    dataset = in_memory([blob(0), blob(1)], tmp_path)
    found = take_fingerprint(dataset, dataset.cases)
    found.save(tmp_path / "fingerprint.json")
    assert Fingerprint.load(tmp_path / "fingerprint.json") == found
    for text in ("{}", "[", json.dumps({**found.to_json(), "surprise": 1})):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match="no fingerprint"):
            Fingerprint.load(tmp_path / "bad.json")


def test_what_cannot_be_learned_is_refused(tmp_path):
    unlabelled, empty = blob(0), blob(0)
    unlabelled.labels = None
    empty.labels = np.zeros_like(empty.labels)
    two_channels = Sample("x", Scan(np.zeros((14, 22, 18, 2), np.float32), affine=LPS), blob(0).labels)
    for samples, fields, message in (
        ([], {}, "no cases"),
        ([blob(0)], {"instances": True}, "no names"),
        ([unlabelled], {}, "no label map"),
        ([empty], {}, "no case shows any target"),
        ([blob(0), blob(1, (1, 22, 18), axes=None)], {}, "mixed"),
        ([blob(0), two_channels], {}, "different channels"),
    ):
        dataset = in_memory(samples, tmp_path, **fields)
        with pytest.raises(DataError, match=message):
            take_fingerprint(dataset, dataset.cases)
