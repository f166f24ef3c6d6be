"""DICOM SEG: what is written is read back equal, here and by highdicom, and lies on its series or is refused."""

from __future__ import annotations

import highdicom
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from medsam_adapter import __version__
from medsam_adapter.data.io import read_label, read_scan, write_mask
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import DataError
from miniatures import dicom

SHAPE = (4, 5, 6)
OBLIQUE = (0.8, 0.6, 0, -0.6, 0.8, 0)


@pytest.fixture
def scan(tmp_path):
    """An oblique series whose files are not in order."""
    values = np.arange(120).reshape(SHAPE).astype(np.int16)
    dicom.series(tmp_path / "ct", values, orientation=OBLIQUE, order=[2, 0, 3, 1], PatientName="Who^Ever")
    return read_scan(tmp_path / "ct")


def labels() -> np.ndarray:
    """Labels 1 and 3, nothing in the second slice, and a mirrored copy is another map."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 1:3, 2:5] = 1
    mask[2, 0, 0], mask[3, 4, 1:] = 3, 3
    mask[2, 2:4, 1] = 1
    return mask


def test_labels_come_back_and_say_what_they_are(tmp_path, scan):
    path = write_mask(tmp_path / "seg.dcm", labels(), scan, {1: "the spleen", 2: "Лёгкое", 3: "x" * 80})
    np.testing.assert_array_equal(read_label(path, like=scan), labels())
    seg = highdicom.seg.segread(path)
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["the spleen", "Лёгкое", "x" * 61 + "..."]
    assert {item.SegmentAlgorithmName for item in seg.SegmentSequence} == {"medsam-adapter"}
    assert seg.SoftwareVersions == __version__ and seg.SegmentationType == "BINARY"
    assert seg.PatientName == "Who^Ever" and seg.StudyInstanceUID == dicom.uid("study")
    assert seg.SeriesInstanceUID != scan.series
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["seg.dcm"]


def test_highdicom_reads_the_same_in_the_same_place(tmp_path, scan):
    path = write_mask(tmp_path / "seg.dcm", labels(), scan)
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    # highdicom counts slices against our normal, and its indices are (slice, row, column) in LPS.
    np.testing.assert_array_equal(volume.array[::-1], labels())
    ours = np.diag([-1, -1, 1, 1]) @ scan.affine @ (2, 1, 3, 1)
    np.testing.assert_allclose(volume.affine @ (0, 1, 2, 1), ours, atol=1e-6)


def test_each_frame_refers_to_its_own_slice(tmp_path, scan):
    seg = dcmread(write_mask(tmp_path / "seg.dcm", labels(), scan))
    numbers = {dicom.uid("a", number): k for k, number in enumerate([2, 0, 3, 1])}
    positions = {}
    for path in scan.path.iterdir():
        source = dcmread(path)
        positions[numbers[source.SOPInstanceUID]] = list(source.ImagePositionPatient)
    assert {ref.ReferencedSOPInstanceUID for ref in seg.SourceImageSequence} == set(numbers)
    seen = set()
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        k = numbers[source.ReferencedSOPInstanceUID]
        assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == positions[k]
        seen.add(k)
    assert seen == {0, 2, 3}  # the empty slice has no frame


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(8, 11)))
def test_any_label_map_comes_back(tmp_path_factory, seed, shape):
    folder = tmp_path_factory.mktemp("seg")
    dicom.series(folder / "ct", np.zeros(shape, np.int16), orientation=OBLIQUE)
    scan = read_scan(folder / "ct")
    mask = np.random.default_rng(seed).choice([0, 0, 1, 2, 5], shape).astype(np.uint8)
    names = {} if mask.any() else {1: "nothing"}
    np.testing.assert_array_equal(read_label(write_mask(folder / "s.dcm", mask, scan, names), like=scan), mask)


def test_an_empty_mask_keeps_its_segment(tmp_path, scan):
    empty = np.zeros(SHAPE, np.uint8)
    path = write_mask(tmp_path / "seg.dcm", empty, scan, {1: "the spleen"})
    np.testing.assert_array_equal(read_label(path, like=scan), empty)
    assert highdicom.seg.segread(path).SegmentSequence[0].SegmentLabel == "the spleen"
    with pytest.raises(DataError, match="no segments"):
        write_mask(tmp_path / "none.dcm", empty, scan)
    assert not (tmp_path / "none.dcm").exists()


def test_it_is_turned_onto_a_nifti_file_of_the_same_voxels(tmp_path, scan):
    path = write_mask(tmp_path / "seg.dcm", labels(), scan)
    turned = nib.as_closest_canonical(nib.Nifti1Image(labels().T, scan.affine))
    nib.save(turned, tmp_path / "ct.nii.gz")
    like = read_scan(tmp_path / "ct.nii.gz")
    assert not np.allclose(like.affine, scan.affine)
    np.testing.assert_array_equal(read_label(path, like=like), like.array)
    permuted = nib.Nifti1Image(labels().transpose(0, 2, 1), scan.affine @ np.eye(4)[:, [2, 0, 1, 3]])
    nib.save(permuted, tmp_path / "permuted.nii.gz")
    like = read_scan(tmp_path / "permuted.nii.gz")
    np.testing.assert_array_equal(read_label(path, like=like), like.array)


def test_a_scan_turned_in_memory_is_turned_back_for_its_series(tmp_path, scan):
    flip = np.eye(4)
    flip[0] = -1, 0, 0, SHAPE[2] - 1
    turned = Scan(scan.array[:, :, ::-1], scan.spacing_mm, scan.affine @ flip, scan.path)
    path = write_mask(tmp_path / "seg.dcm", labels()[:, :, ::-1], turned)
    np.testing.assert_array_equal(read_label(path, like=scan), labels())
    affine = scan.affine.copy()
    affine[2, 3] += 0.5
    moved = Scan(scan.array, scan.spacing_mm, affine, scan.path)
    with pytest.raises(DataError, match="not on the grid of its files"):
        write_mask(tmp_path / "moved.dcm", labels(), moved)


def test_without_a_scan_it_has_its_own_grid(tmp_path, scan):
    mask = labels()
    mask[0] = 0
    path = write_mask(tmp_path / "seg.dcm", mask, scan)
    np.testing.assert_array_equal(read_label(path), mask[2:])
    far_apart = np.zeros(SHAPE, np.uint8)
    far_apart[3, 0, 1], far_apart[0, 2, 2] = 1, 2
    path = write_mask(tmp_path / "far_apart.dcm", far_apart, scan)
    np.testing.assert_array_equal(read_label(path), far_apart)


@pytest.mark.parametrize("move", [(0.4, 0, 0), (0, 0, 1), (0, 3, 0), (0, 0, -1), (-3, 0, 0)])
def test_a_segmentation_of_another_place_is_refused(tmp_path, scan, move):
    path = write_mask(tmp_path / "seg.dcm", labels(), scan)
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ move
    with pytest.raises(DataError, match="does not lie on the grid") as caught:
        read_label(path, like=Scan(scan.array, scan.spacing_mm, affine, scan.path))
    assert "seg.dcm" in str(caught.value) and str(scan.path) in str(caught.value)


def test_other_voxel_sizes_and_no_affine_are_refused(tmp_path, scan):
    path = write_mask(tmp_path / "seg.dcm", labels(), scan)
    with pytest.raises(DataError, match="does not lie on the grid"):
        read_label(path, like=Scan(scan.array, scan.spacing_mm, scan.affine @ np.diag([1.1, 1, 1, 1])))
    finer = Scan(np.zeros((4, 10, 12)), scan.spacing_mm, scan.affine @ np.diag([0.5, 0.5, 1, 1]))
    with pytest.raises(DataError, match="does not lie on the grid"):
        read_label(path, like=finer)
    with pytest.raises(DataError, match="space of its patient"):
        read_label(path, like=Scan(scan.array))


def test_overlap_and_fractions_are_refused(tmp_path, scan):
    sources = sorted((dcmread(path) for path in scan.path.iterdir()), key=lambda each: each.ImagePositionPatient[2])
    codes = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")

    def segments(count: int) -> list:
        return [
            highdicom.seg.SegmentDescription(number, f"s{number}", codes, codes, "MANUAL")
            for number in range(1, count + 1)
        ]

    def save(name: str, pixels: np.ndarray, kind: str, count: int):
        uids = (highdicom.UID(), 1, highdicom.UID(), 1)
        seg = highdicom.seg.Segmentation(sources, pixels, kind, segments(count), *uids, "a", "b", "c", "d")
        seg.save_as(tmp_path / name)
        return tmp_path / name

    both = np.stack([labels() == 1, labels() > 0], axis=-1).astype(np.uint8)
    with pytest.raises(DataError, match="overlap") as caught:
        read_label(save("overlap.dcm", both, "BINARY", 2), like=scan)
    assert "of segment 1 also in segment 2" in caught.value.found
    with pytest.raises(DataError, match="fractions"):
        read_label(save("fractions.dcm", (labels() == 1).astype(np.float32) / 2, "FRACTIONAL", 1), like=scan)
    np.testing.assert_array_equal(read_label(save("map.dcm", labels(), "LABELMAP", 3), like=scan), labels())


def test_a_folder_with_one_segmentation_is_a_label(tmp_path, scan):
    write_mask(tmp_path / "labels" / "case" / "seg.dcm", labels(), scan)
    np.testing.assert_array_equal(read_label(tmp_path / "labels" / "case", like=scan), labels())


def test_a_segmentation_is_no_image_and_is_passed_over_beside_one(tmp_path, scan):
    path = write_mask(scan.path / "seg.dcm", labels(), scan)
    np.testing.assert_array_equal(read_scan(scan.path).array, scan.array)
    with pytest.raises(DataError, match="no DICOM image") as caught:
        read_scan(path)
    assert "series that it was made on" in caught.value.hint


def test_frames_of_a_multi_frame_series_and_one_slice(tmp_path):
    dicom.enhanced(tmp_path / "a.dcm", np.zeros(SHAPE, np.uint16), heights=[2, 0, 3, 1])
    scan = read_scan(tmp_path / "a.dcm")
    path = write_mask(tmp_path / "seg.dcm", labels(), scan)
    np.testing.assert_array_equal(read_label(path, like=scan), labels())
    by_slice = {
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for frame in dcmread(path).PerFrameFunctionalGroupsSequence
    }
    assert by_slice == {2, 1, 3}  # slices 0, 2 and 3 are frames 2, 1 and 3
    dicom.series(tmp_path / "one", np.zeros((1, 5, 6), np.int16))
    one = read_scan(tmp_path / "one")
    np.testing.assert_array_equal(read_label(write_mask(tmp_path / "1.dcm", labels()[:1], one), like=one), labels()[:1])


def test_a_radiograph_without_a_place(tmp_path):
    image = dicom.image(np.zeros((5, 6), np.uint16), dicom.SECONDARY_CAPTURE, FrameOfReferenceUID=None)
    scan = read_scan(dicom.save(image, tmp_path / "a.dcm"))
    mask = labels()[:1] + labels()[3:]
    path = write_mask(tmp_path / "seg.dcm", mask, scan)
    np.testing.assert_array_equal(read_label(path, like=scan), mask)
    with pytest.raises(DataError, match="does not lie on the grid"):
        read_label(path, like=Scan(np.zeros((1, 6, 6))))


def test_uids_that_anonymising_has_emptied_are_made_anew(tmp_path):
    dicom.series(tmp_path / "ct", np.zeros(SHAPE, np.int16), PatientSex=None, PatientID=None, FrameOfReferenceUID=None)
    for path in (tmp_path / "ct").iterdir():
        emptied = dcmread(path)
        for word in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"):
            setattr(emptied, word, "")
        emptied.save_as(path, enforce_file_format=False)
    scan = read_scan(tmp_path / "ct")
    studies = set()
    for name in ("1.dcm", "2.dcm"):
        path = write_mask(tmp_path / name, labels(), scan)
        np.testing.assert_array_equal(read_label(path, like=scan), labels())
        studies.add(dcmread(path).StudyInstanceUID)
    assert len(studies) == 1 and studies.pop()


@pytest.mark.parametrize("num_slices", [4, 1])
@pytest.mark.parametrize("thickness", [None, ""])
def test_a_thickness_that_is_lacking_is_the_step(tmp_path, thickness, num_slices):
    dicom.series(tmp_path / "ct", np.zeros(SHAPE, np.int16)[:num_slices], SliceThickness=thickness)
    if thickness is not None:
        for path in (tmp_path / "ct").iterdir():
            emptied = dcmread(path)
            emptied.SliceThickness = None
            emptied.save_as(path)
    scan = read_scan(tmp_path / "ct")
    mask = labels()[:num_slices]
    path = write_mask(tmp_path / "seg.dcm", mask, scan)
    np.testing.assert_array_equal(read_label(path, like=scan), mask)


def test_one_of_two_series_in_a_folder(tmp_path):
    for word in "ab":
        dicom.series(tmp_path / "ct", np.zeros(SHAPE, np.int16), series=word, name=word + "{}")
    scan = read_scan(tmp_path / "ct", series=dicom.uid("series", "b"))
    seg = dcmread(write_mask(tmp_path / "seg.dcm", labels(), scan))
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == dicom.uid("series", "b")
    with pytest.raises(DataError, match="several series"):
        write_mask(tmp_path / "seg2.dcm", labels(), Scan(scan.array, scan.spacing_mm, scan.affine, scan.path))


def test_only_a_dicom_scan_can_be_referred_to(tmp_path):
    nib.save(nib.Nifti1Image(labels().T, np.eye(4)), tmp_path / "a.nii")
    for scan in (read_scan(tmp_path / "a.nii"), Scan(labels(), affine=np.eye(4))):
        with pytest.raises(DataError, match="DICOM") as caught:
            write_mask(tmp_path / "seg.dcm", labels(), scan)
        assert caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


def test_a_damaged_segmentation_is_named(tmp_path, scan):
    path = write_mask(tmp_path / "seg.dcm", labels(), scan)
    content = path.read_bytes()
    for keep in (0.3, 0.999):
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(DataError) as caught:
            read_label(path, like=scan)
        assert str(path) in str(caught.value)


def test_frames_that_highdicom_would_garble_are_refused(tmp_path):
    dicom.series(tmp_path / "ct", np.zeros((1, 1, 7), np.int16))
    scan = read_scan(tmp_path / "ct")
    with pytest.raises(DataError, match="too small"):
        write_mask(tmp_path / "seg.dcm", np.ones((1, 1, 7), np.uint8), scan)
    assert not (tmp_path / "seg.dcm").exists()


def test_bytes_behind_the_last_frame_are_no_frames(tmp_path, scan):
    seg = dcmread(write_mask(tmp_path / "seg.dcm", labels(), scan))
    seg.PixelData += b"\xff" * 64
    seg.save_as(tmp_path / "longer.dcm")
    np.testing.assert_array_equal(read_label(tmp_path / "longer.dcm", like=scan), labels())
