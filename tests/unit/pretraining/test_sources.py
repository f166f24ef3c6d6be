"""Sources of unlabelled images: what is found, what is refused, and that a run resumes to the bit."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Features, Image, Value
from PIL import Image as PILImage
from pyarrow.parquet import write_table
from torch.utils.data import DataLoader

from medsam_adapter.errors import DataError, RecipeError
from medsam_adapter.pretraining.sources import Mixture, Picture, open_source
from medsam_adapter.pretraining.sources import folder as folder_module
from medsam_adapter.pretraining.sources.augment import _crop, augment
from medsam_adapter.pretraining.sources.listing import is_reference
from medsam_adapter.processing_msa import MSAProcessor

REAL = Path(__file__).parents[4] / "shared" / "data"


def noise(seed: int = 0, shape=(12, 10), dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, np.iinfo(dtype).max, shape, dtype=dtype)


def encoded(data: np.ndarray, kind: str = "png") -> bytes:
    out = io.BytesIO()
    PILImage.fromarray(data).save(out, kind)
    return out.getvalue()


def picture(path: Path, data: np.ndarray | None = None, cut: int | None = None) -> Path:
    """Writes a picture, or only its first bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"jpg": "jpeg", "tif": "tiff"}.get(path.suffix[1:], path.suffix[1:])
    path.write_bytes(encoded(noise() if data is None else data, kind)[:cut])
    return path


def nifti(path: Path, data: np.ndarray, affine=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def table(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def folder(path, **values):
    return open_source({"kind": "folder", "path": str(path), **values})


def names(source) -> list[str]:
    return [Path(source.read(n).name).name for n in range(len(source))]


class Numbers:
    """A source whose image n has the value n / 1000 all over; those in `damaged` cannot be read."""

    def __init__(self, name: str, count: int, damaged=()):
        self.name, self.count, self.damaged = name, count, set(damaged)

    def __len__(self):
        return self.count

    def read(self, index: int) -> Picture:
        if index in self.damaged:
            raise DataError("is damaged", file=f"{self.name}-{index}", found="half a file")
        return Picture(f"{self.name}-{index}", np.full((6, 8), index / 1000, np.float32), f"class {index % 3}")


def mixture(sources=None, weights=None, **changes) -> Mixture:
    sources = sources or [Numbers("a", 13), Numbers("b", 5)]
    values = dict(batch_size=4, steps=9, image_size=16, seed=3, augment=False) | changes
    return Mixture(sources, weights or [1.0] * len(sources), **values)


def batches(mixture: Mixture, workers: int = 0) -> list[dict]:
    return list(DataLoader(mixture, batch_size=None, num_workers=workers))


def assert_same(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["pixel_values"], b["pixel_values"]) and torch.equal(a["source"], b["source"])
        assert all(a[key] == b[key] for key in ("step", "names", "labels", "skipped"))


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_pictures_in_the_order_of_their_names_without_references(tmp_path):
    for name in ("b.png", "sub/a.jpg", "sub/c.bmp"):
        picture(tmp_path / name)
    for name in ("masks/b.png", "sub/labelsTr/a.png", "b_segmentation.png", "b_mask.png", "mask.png", ".hidden.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("nothing")
    assert names(folder(tmp_path)) == ["b.png", "a.jpg", "c.bmp"]
    assert folder(tmp_path).read(0).array.dtype == np.float32


def test_values_are_those_of_the_file(tmp_path):
    data = noise(1, (12, 10, 4))
    picture(tmp_path / "rgba.png", data)
    read = folder(tmp_path).read(0)
    assert np.array_equal(read.array, data[..., :3].astype(np.float32) / 255) and read.label is None


def test_sixteen_bits_want_an_intensity(tmp_path):
    data = noise(1, (20, 20), np.uint16)
    picture(tmp_path / "deep.png", data)
    with pytest.raises(DataError, match=r"(?s)deep\.png.*scale.*not known.*uint16"):
        folder(tmp_path).read(0)
    array = folder(tmp_path, intensity="percentile").read(0).array
    assert array.min() == 0 and array.max() == 1 and 0.4 < array.mean() < 0.6


def test_pages_of_a_tiff_are_images(tmp_path):
    pages = [PILImage.fromarray(noise(n)) for n in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    source = folder(tmp_path)
    assert [source.read(n).array.tolist() for n in range(len(source))] == [
        (noise(n).astype(np.float32) / 255).tolist() for n in range(3)
    ]


def test_slices_are_axial_whatever_the_orientation_of_the_file(tmp_path):
    lps = noise(2, (4, 5, 6))  # x, y, z to the left, back and head
    nifti(tmp_path / "lps.nii.gz", lps, np.diag([-1, -1, 1, 1]))
    nifti(tmp_path / "las.nii.gz", lps[:, ::-1], np.diag([-1, 1, 1, 1]))
    nifti(tmp_path / "ras_xzy.nii.gz", lps[::-1, ::-1].transpose(0, 2, 1), np.eye(4)[:, [0, 2, 1, 3]])
    source = folder(tmp_path)
    assert len(source) == 18
    for n in range(18):
        assert np.array_equal(source.read(n).array, lps[:, :, n % 6].T.astype(np.float32) / 255), source.read(n).name
    assert len(folder(tmp_path, orientation="LIP")) == 15  # coronal: 5 slices each
    assert len(folder(tmp_path, orientation="file")) == 6 + 6 + 5


def test_an_empty_slice_is_answered_with_its_nearest_neighbour(tmp_path):
    data = noise(2, (4, 5, 6))
    data[:, :, [0, 1, 4]] = 7
    nifti(tmp_path / "a.nii.gz", data)
    source = folder(tmp_path, orientation="file")
    assert [source.read(n).name[-2] for n in range(6)] == ["2", "2", "2", "3", "3", "5"]
    nifti(tmp_path / "b.nii.gz", np.full((4, 5, 6), 7, np.uint8))
    with pytest.raises(DataError, match=r"b\.nii\.gz: has no content"):
        folder(tmp_path).read(6)


def test_channels_of_a_volume_are_images(tmp_path):
    nifti(tmp_path / "four.nii.gz", noise(2, (4, 5, 3, 2)))
    source = folder(tmp_path, orientation="file")
    assert len(source) == 6 and source.read(4).name.endswith("[channel 1 slice 1]")
    assert np.array_equal(source.read(4).array, noise(2, (4, 5, 3, 2))[:, :, 1, 1].T.astype(np.float32) / 255)


def test_opening_reads_headers_only_and_reading_decodes_each_volume_once(tmp_path, monkeypatch):
    reads = []
    real = folder_module.read_scan
    monkeypatch.setattr(folder_module, "read_scan", lambda *a, **k: reads.append(a[0].name) or real(*a, **k))
    for name in "abcd":
        nifti(tmp_path / f"{name}.nii.gz", noise(2, (4, 5, 6)))
    source = folder(tmp_path)
    assert reads == []
    for n in source.order(np.random.default_rng(0)):
        source.read(n)
    assert sorted(reads) == ["a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii.gz"]


def test_the_cache_forgets_and_the_order_finishes_a_window_before_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "WINDOW_BYTES", 2 * 120)
    monkeypatch.setattr(folder_module, "CACHE_BYTES", 2 * 120)
    for n in range(8):
        nifti(tmp_path / f"{n}.nii.gz", noise(n, (4, 5, 6)))
    source = folder(tmp_path)
    order = source.order(np.random.default_rng(0))
    assert sorted(order) == list(range(48)) and order.tolist() != sorted(order)
    windows = [{int(n) // 6 for n in order[at : at + 12]} for at in range(0, 48, 12)]
    assert all(len(window) == 2 for window in windows)
    for n in order:
        source.read(n)
        assert len(source._cache) <= 2
    assert source.order(np.random.default_rng(1)).tolist() != order.tolist()


def test_a_volume_of_unknown_scale_is_refused_at_opening(tmp_path):
    data = noise(2, (4, 5, 6)).astype(np.int16) * 4 - 400
    nifti(tmp_path / "ct.nii.gz", data)
    with pytest.raises(DataError, match=r"(?s)scale of this volume.*int16.*ct:soft-tissue"):
        folder(tmp_path)
    array = folder(tmp_path, intensity="ct:soft-tissue", orientation="file").read(2).array
    assert np.abs(array - np.clip((data[:, :, 2].T + 160) / 400, 0, 1)).max() < 0.0021
    assert np.array_equal(folder(tmp_path, window_hu=[-160, 240], orientation="file").read(2).array, array)


def test_excluded_files_and_parts_of_a_split_stay_out(tmp_path):
    for name in ("a.png", "b.png", "test/c.png", "d_0000.png", "sub/a.png", "masks/a.png"):
        picture(tmp_path / name)
    assert names(folder(tmp_path, exclude=["test/*", "b"])) == ["a.png", "d_0000.png", "a.png"]
    with pytest.raises(DataError, match="(?s)matches nothing.*tset"):
        folder(tmp_path, exclude=["tset/*"])
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["a", "d"], "test": ["test/c"], "val": ["z"]}))
    assert names(folder(tmp_path, cases=str(split))) == ["a.png", "d_0000.png", "a.png"]
    assert names(folder(tmp_path, cases=str(split), part="test")) == ["c.png"]
    for part, message in (("val", "holds no file of part"), ("trian", "has no part")):
        with pytest.raises(DataError, match=message):
            folder(tmp_path, cases=str(split), part=part)


def test_fewer_images_are_spread_over_all(tmp_path):
    for n in range(9):
        picture(tmp_path / f"{n}.png")
    source = folder(tmp_path, max_images=3)
    assert names(source) == ["0.png", "4.png", "8.png"]
    assert sorted(source.order(np.random.default_rng(0))) == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [({}, "holds no images"), ({"masks/a.png": None}, "holds no images"), (None, "is no folder")],
)
def test_a_folder_without_images_is_refused(tmp_path, content, message):
    for name in content or ():
        picture(tmp_path / name)
    with pytest.raises(DataError, match=message):
        folder(tmp_path if content is not None else tmp_path / "none")


def test_damaged_files_are_errors_that_name_them_when_they_are_read(tmp_path):
    picture(tmp_path / "a.jpg", noise(0, (60, 60)), cut=500)
    (tmp_path / "b.png").write_bytes(b"")
    path = nifti(tmp_path / "c.nii.gz", noise(0, (20, 20, 6)))
    path.write_bytes(path.read_bytes()[:1000])
    (tmp_path / "d.nii").write_text("no header")
    (tmp_path / "e.tif").write_text("no picture")
    source = folder(tmp_path)
    for name in ("a.jpg", "b.png", "c.nii.gz", "d.nii", "e.tif"):
        index = {"a": 0, "b": 1, "c": 2, "d": len(source) - 2, "e": len(source) - 1}[name[0]]
        with pytest.raises(DataError, match=name):
            source.read(index)


@pytest.mark.real
@pytest.mark.skipif(not (REAL / "hippocampus").is_dir(), reason="no ../shared/data")
def test_a_real_data_set_opens():
    source = folder(REAL / "hippocampus", intensity="percentile", exclude=["hippocampus_3*"])
    picture = source.read(len(source) // 2)
    assert len(source) > 500 and picture.array.std() > 0.05 and "imagesTr" in picture.name


# -- known data sets ---------------------------------------------------------------------------------------------------


def radimagenet(root: Path, count: int = 3) -> Path:
    for n in range(count):
        picture(root / f"radiology_ai/MR/knee/acl/img{n}.png", noise(n))
    picture(root / "radiology_ai/US/liver/usn1.png")
    return root


@pytest.mark.parametrize("below", ["", "radiology_ai"])
@pytest.mark.parametrize("lead", ["radiology_ai/", ""])
def test_radimagenet_by_its_table(tmp_path, below, lead):
    root = radimagenet(tmp_path)
    table(root / "t.csv", "filename,label", f"{lead}MR/knee/acl/img2.png,acl", f"{lead}US/liver/usn1.png,liver")
    source = open_source({"kind": "radimagenet", "path": str(root / below), "csv": str(root / "t.csv"), "weight": 2})
    assert names(source) == ["img2.png", "usn1.png"]
    assert [source.read(n).label for n in range(2)] == ["acl", "liver"]
    assert np.array_equal(source.read(0).array, noise(2).astype(np.float32) / 255)


def test_radimagenet_by_its_folders(tmp_path):
    source = open_source({"kind": "radimagenet", "path": str(radimagenet(tmp_path))})
    assert [source.read(n).label for n in range(4)] == ["acl", "acl", "acl", "liver"]


def test_missing_files_are_errors_of_a_picture_unless_all_are(tmp_path):
    root = radimagenet(tmp_path)
    lines = ["filename,label", "radiology_ai/CT/gone.png,x", "radiology_ai/MR/knee/acl/img0.png,acl"]
    table(root / "t.csv", *lines)
    source = open_source({"kind": "radimagenet", "path": str(root), "csv": "t.csv"})
    assert source.read(1).label == "acl"
    with pytest.raises(DataError, match=r"gone\.png"):
        source.read(0)
    table(root / "t.csv", *lines[:2])
    with pytest.raises(DataError, match="(?s)none of the first 1 images.*unpack"):
        open_source({"kind": "radimagenet", "path": str(root), "csv": "t.csv"})


def test_eyepacs(tmp_path):
    picture(tmp_path / "train/10_left.jpeg", noise(1, (12, 10, 3)))
    picture(tmp_path / "test/10_left.jpeg", noise(2, (12, 10, 3)))
    table(tmp_path / "trainLabels.csv", "image,level", "10_left,2", "11_left,0")
    table(tmp_path / "testLabels.csv", "image,level,Usage", "10_left,4,Private")
    source = open_source({"kind": "eyepacs", "path": str(tmp_path)})
    assert source.read(0).name.endswith("train/10_left.jpeg") and source.read(0).label == "grade 2"
    with pytest.raises(DataError, match="train/11_left.jpeg"):
        source.read(1)
    test = open_source({"kind": "eyepacs", "path": str(tmp_path), "csv": "testLabels.csv"})
    assert test.read(0).name.endswith("test/10_left.jpeg") and test.read(0).label == "grade 4"


def test_ham10000(tmp_path):
    picture(tmp_path / "HAM10000_images_part_1/ISIC_1.jpg")
    picture(tmp_path / "HAM10000_images_part_2/ISIC_2.jpg")
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    table(tmp_path / "HAM10000_metadata.csv", header, "H1,ISIC_2,mel,histo,40,male,back", "H2,ISIC_1,nv,histo,,,")
    source = open_source({"kind": "ham10000", "path": str(tmp_path)})
    assert [(Path(p.name).parent.name[-1], p.label) for p in (source.read(0), source.read(1))] == [
        ("2", "mel"),
        ("1", "nv"),
    ]


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        (["bcn_filename,diagnosis", "one.jpg,MEL", "two.jpg,"], ["MEL", None]),
        (["isic_id,diagnosis", "two,nevus", "one,melanoma"], ["nevus", "melanoma"]),
        (["isic_id,diagnosis_1,diagnosis_2", "one,Benign,Nevus", "two,Malignant,"], ["Nevus", "Malignant"]),
        (
            ["image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK", "one,0.0,1.0,0,0,0,0,0,0,0", "two,0,0,0,0,0,0,0,0,1.0"],
            ["NV", "UNK"],
        ),
    ],
)
def test_bcn20000_in_its_three_forms(tmp_path, lines, labels):
    picture(tmp_path / "images/one.jpg")
    picture(tmp_path / "images/two.jpg")
    table(tmp_path / "t.csv", *lines)
    table(tmp_path / "m.csv", "image,lesion_id", "one,BCN_1", "two,BCN_2")
    more = {"metadata": "m.csv"} if lines[0].startswith("image") else {}
    source = open_source({"kind": "bcn20000", "path": str(tmp_path), "csv": "t.csv", **more})
    assert [source.read(n).label for n in range(2)] == labels


def test_bcn20000_with_a_cell_that_is_no_number(tmp_path):
    picture(tmp_path / "one.jpg")
    table(tmp_path / "t.csv", "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK", "one,NA,1,0,0,0,0,0,0,0")
    table(tmp_path / "m.csv", "image,lesion_id", "one,BCN_1")
    with pytest.raises(DataError, match="no number in the column MEL") as caught:
        open_source({"kind": "bcn20000", "path": str(tmp_path), "csv": "t.csv", "metadata": "m.csv"})
    assert caught.value.file == tmp_path / "t.csv" and caught.value.found == "'NA'"


def test_bcn20000_is_picked_out_of_isic_2019_by_its_lesions(tmp_path):
    picture(tmp_path / "one.jpg")
    picture(tmp_path / "two.jpg")
    table(
        tmp_path / "t.csv", "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK", "one,1,0,0,0,0,0,0,0,0", "two,1,0,0,0,0,0,0,0,0"
    )
    table(tmp_path / "m.csv", "image,lesion_id", "one,HAM_1", "two,BCN_1")
    section = {"kind": "bcn20000", "path": str(tmp_path), "csv": "t.csv"}
    assert names(open_source({**section, "metadata": "m.csv"})) == ["two.jpg"]
    with pytest.raises(DataError, match="holds other data sets, too") as caught:
        open_source(section)
    assert "ISIC_2019_Training_Metadata.csv" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "header", "wanted"),
    [
        ("radimagenet", "file,label", "filename, label"),
        ("eyepacs", "image,grade", "image, level"),
        ("ham10000", "image_id,diagnosis", "image_id, dx"),
        ("bcn20000", "isic_id,class", "isic_id or bcn_filename and diagnosis"),
        ("bcn20000", "image,MEL,NV", "image, MEL, NV, BCC"),
    ],
)
def test_a_table_with_other_columns_names_those_wanted_and_found(tmp_path, kind, header, wanted):
    table(tmp_path / "t.csv", header, "a,1")
    with pytest.raises(DataError) as caught:
        open_source({"kind": kind, "path": str(tmp_path), "csv": "t.csv"})
    assert wanted in caught.value.expected and caught.value.found == header.replace(",", ", ")


def test_columns_may_stand_elsewhere_but_a_torn_row_is_told(tmp_path):
    root = radimagenet(tmp_path)
    table(root / "t.csv", "id,label,filename", "7,acl,radiology_ai/MR/knee/acl/img1.png")
    section = {"kind": "radimagenet", "path": str(root), "csv": "t.csv"}
    assert open_source(section).read(0).label == "acl"
    table(root / "t.csv", "id,label,filename", "7,acl,radiology_ai/MR/knee/acl/img1.png", "8,ac")
    with pytest.raises(DataError, match="(?s)line 3 does not fit.*3 values"):
        open_source(section)
    with pytest.raises(DataError, match=r"(?s)u\.csv: does not exist.*t\.csv"):
        open_source(section | {"csv": "u.csv"})


# -- recipe entries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "foldr", "path": "x"}, "did you mean folder"),
        ({"path": "x"}, "unknown kind"),
        ({"kind": ["folder"], "path": "x"}, "unknown kind"),
        ({"kind": "folder"}, "needs path"),
        ({"kind": "folder", "path": "x", "exclud": []}, "did you mean exclude"),
        ({"kind": "ham10000", "path": "x", "intensity": "rgb"}, "unknown key intensity"),
        ({"kind": "folder", "path": 3}, "path.*wrong type"),
        ({"kind": "folder", "path": "x", "exclude": "test/*"}, "exclude.*wrong type"),
        ({"kind": "folder", "path": "x", "max_images": True}, "max_images.*wrong type"),
        ({"kind": "folder", "path": "x", "max_images": 0}, "max_images.*not above 0"),
        ({"kind": "folder", "path": "x", "weight": -1}, "weight.*not above 0"),
        ("folder", "is a section"),
    ],
)
def test_a_wrong_entry_is_refused(section, message):
    with pytest.raises(RecipeError, match=f"(?s){message}"):
        open_source(section)


@pytest.mark.parametrize("values", [{"intensity": "ct"}, {"orientation": "LPX"}, {"window_hu": [3, 1]}])
def test_a_wrong_value_of_a_folder_is_refused(tmp_path, values):
    picture(tmp_path / "a.png")
    with pytest.raises(DataError):
        folder(tmp_path, **values)


# -- streams -----------------------------------------------------------------------------------------------------------


def parquet(root: Path, shards: int = 2, rows: int = 6, damaged=()) -> Path:
    """Shards of images of one grey value, which is their number times 5; every second one is labelled "odd"."""
    features = Features({"image": Image(), "kind": Value("string"), "mask": Image()})
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        entries = []
        for n in range(shard * rows, (shard + 1) * rows):
            content = encoded(np.full((8, 8), n * 5, np.uint8))
            content = content[:40] if n in damaged else content
            entries.append(
                {
                    "image": {"bytes": content, "path": f"{n}.png"},
                    "kind": "odd" if n % 2 else "even",
                    "mask": {"bytes": b"no picture", "path": "m.png"},
                }
            )
        write_table(pa.Table.from_pylist(entries, features.arrow_schema), root / f"train-{shard:05d}.parquet")
    return root


def tar(path: Path, count: int, first: int = 0, damaged=()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for n in range(first, first + count):
            content = encoded(np.full((8, 8), n * 5, np.uint8), "jpeg")
            for name, data in ((f"{n:04d}.jpg", content[:200] if n in damaged else content), (f"{n:04d}.cls", b"3")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # seconds at the end of each epoch


def stream(path, **values):
    return open_source({"kind": "stream", "path": str(path), **values})


def taken(source, count: int, *args) -> list[Picture | DataError]:
    examples = source.examples(*args)
    return [next(examples) for _ in range(count)]


def numbers(examples) -> list[int]:
    return [round(float(e.array[0, 0]) * 51) for e in examples]


@pytest.mark.parametrize("what", ["folder", "pattern", "file"])
def test_parquet_shards_are_read_in_shuffled_epochs(tmp_path, cache, what):
    root = parquet(tmp_path / "shards", shards=1 if what == "file" else 2, rows=12 if what == "file" else 6)
    path = {"folder": root, "pattern": root / "*.parquet", "file": root / "train-00000.parquet"}[what]
    examples = taken(stream(path, label_column="kind", buffer=5), 24)
    first, second = numbers(examples[:12]), numbers(examples[12:])
    assert sorted(first) == sorted(second) == list(range(12))
    assert first[:7] != sorted(first[:7]) and first != second  # what passes through the buffer is shuffled too
    assert all(e.label == ("odd" if n % 2 else "even") for e, n in zip(examples, first + second, strict=True))
    assert numbers(taken(stream(path, seed=1, buffer=5), 12)) != first


def test_a_stream_goes_on_where_it_is_told_without_decoding_what_it_passes(tmp_path, cache, monkeypatch):
    source = stream(parquet(tmp_path / "shards"), buffer=5)
    whole = numbers(taken(source, 70))
    from medsam_adapter.pretraining.sources import streaming

    decoded, epochs = [], []
    real, real_epoch = streaming.read_pages, source._epoch
    monkeypatch.setattr(streaming, "read_pages", lambda *a: decoded.append(1) or real(*a))
    monkeypatch.setattr(source, "_epoch", lambda epoch, *a: epochs.append(epoch) or real_epoch(epoch, *a))
    for start in (1, 11, 12, 13, 24, 50):
        decoded.clear()
        assert numbers(taken(source, 8, start)) == whole[start : start + 8], start
        assert len(decoded) == 8
    assert epochs[-2:] == [0, 4], "whole epochs are passed over unread"


@pytest.mark.parametrize(("shards", "processes"), [(2, 2), (2, 3), (1, 2), (9, 2)])
def test_processes_of_a_stream_share_an_epoch(tmp_path, cache, shards, processes):
    rows = 12 // shards if shards < 9 else 2
    source = stream(parquet(tmp_path / "shards", shards, rows), buffer=4)
    total = shards * rows
    shares = []
    for process in range(processes):
        epochs = []
        real = source._epoch
        for epoch in range(2):
            epochs.append([e["image"]["path"] for e in real(epoch, process, processes)])
        assert len(epochs[0]) == len(epochs[1])
        shares.append(epochs)
    for epoch in range(2):
        seen = [name for epochs in shares for name in epochs[epoch]]
        assert len(seen) == len(set(seen)) == total


def test_webdataset_shards_and_damaged_examples(tmp_path, cache):
    tar(tmp_path / "a.tar", 6, damaged=(2,))
    tar(tmp_path / "b.tar", 6, first=6)
    examples = taken(stream(tmp_path / "*.tar", label_column="cls", buffer=4), 12)
    errors = [e for e in examples if isinstance(e, DataError)]
    assert len(errors) == 1 and "0002" in str(errors[0]) and "cannot be read as a picture" in str(errors[0])
    good = [e for e in examples if isinstance(e, Picture)]
    assert sorted(numbers(good)) == [n for n in range(12) if n != 2] and {e.label for e in good} == {"3"}


def test_class_numbers_get_their_names(tmp_path, cache):
    features = Features({"image": Image(), "label": ClassLabel(names=["knee", "liver"])})
    rows = [{"image": {"bytes": encoded(noise()), "path": None}, "label": n} for n in (0, 1)]
    write_table(pa.Table.from_pylist(rows, features.arrow_schema), tmp_path / "a.parquet")
    assert {e.label for e in taken(stream(tmp_path / "a.parquet", label_column="label"), 2)} == {"knee", "liver"}


def test_a_stream_names_the_columns_there_are(tmp_path, cache):
    root = parquet(tmp_path / "shards")
    with pytest.raises(DataError, match="(?s)no such column.*picture.*image, kind, mask"):
        stream(root, column="picture")
    with pytest.raises(DataError, match="(?s)cannot be opened as a stream.*no file matches the pattern"):
        stream(tmp_path / "*.tar")
    with pytest.raises(DataError, match="(?s)cannot be opened as a stream.*nothing"):
        stream(root, split="nothing")


def test_a_cut_off_shard_is_an_error_that_says_so(tmp_path, cache):
    tar(tmp_path / "a.tar", 12)
    path = tar(tmp_path / "b.tar", 12)
    with tarfile.open(path) as archive:
        cut = archive.getmembers()[6].offset_data + 100
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="(?s)cannot be read on.*get the shards anew"):
        taken(stream(tmp_path / "*.tar", buffer=2), 24)


# -- mixtures ----------------------------------------------------------------------------------------------------------


def test_pixels_are_those_of_the_processor(tmp_path):
    grey, colour = noise(0, (9, 20)), noise(1, (30, 11, 3))
    picture(tmp_path / "g/a.png", grey)
    picture(tmp_path / "c/a.png", colour)
    batch = batches(mixture([folder(tmp_path / "g"), folder(tmp_path / "c")], steps=1, batch_size=12, image_size=32))[0]
    processor = MSAProcessor(image_size=32)
    assert batch["pixel_values"].shape == (12, 3, 32, 32) and batch["pixel_values"].dtype == torch.float32
    assert batch["source"].dtype == torch.int64 and set(batch["source"].tolist()) == {0, 1}
    for pixels, source in zip(batch["pixel_values"], batch["source"], strict=True):
        data = (grey, colour)[source][None].astype(np.float32) / 255
        assert torch.equal(pixels, processor.slices_to_model(data)[0])


def test_each_image_is_seen_once_an_epoch_in_a_new_order():
    seen = [name for b in batches(mixture([Numbers("a", 12)], steps=9)) for name in b["names"]]
    epochs = [seen[at : at + 12] for at in range(0, 36, 12)]
    assert all(sorted(epoch) == sorted(f"a-{n}" for n in range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != sorted(epochs[0])
    other = [name for b in batches(mixture([Numbers("a", 12)], steps=3, seed=4)) for name in b["names"]]
    assert other != epochs[0]


def test_weights_are_kept_to():
    got = batches(mixture([Numbers("a", 50), Numbers("b", 5), Numbers("c", 9)], [6, 3, 1], steps=40, batch_size=50))
    shares = np.bincount(torch.cat([b["source"] for b in got]).numpy(), minlength=3) / 2000
    error = 4 * np.sqrt(np.array([0.24, 0.21, 0.09]) / 2000)
    assert (np.abs(shares - [0.6, 0.3, 0.1]) < error).all()
    assert [b["names"][0][0] for b in got] == ["abc"[b["source"][0]] for b in got]
    assert got[0]["labels"] == [f"class {int(name[2:]) % 3}" for name in got[0]["names"]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 6])
def test_order_is_the_same_with_workers_and_from_any_start(workers, start):
    sources = [Numbers("a", 13, damaged=(4, 5, 11)), Numbers("b", 5)]
    whole = list(map(as_loaded, mixture(sources, [2, 1], augment=True)))
    assert [b["step"] for b in whole] == list(range(9)) and any(b["skipped"] for b in whole)
    assert len({float(b["pixel_values"].sum()) for b in whole}) == 9
    assert_same(batches(mixture(sources, [2, 1], augment=True, start=start), workers), whole[start:])


def as_loaded(batch: dict) -> dict:
    """`DataLoader` turns pairs to lists."""
    return batch | {"skipped": [list(pair) for pair in batch["skipped"]]}


def test_counting_before_a_late_start_is_exact(monkeypatch):
    from medsam_adapter.pretraining.sources import mixture as module

    whole = batches(mixture(steps=60))
    monkeypatch.setattr(module, "_CHUNK", 40)  # ten steps at a time
    assert_same(batches(mixture(steps=60, start=57)), whole[57:])


def test_real_volumes_resume_to_the_bit(tmp_path):
    for n in range(3):
        nifti(tmp_path / f"v/{n}.nii.gz", noise(n, (8, 9, 5)))
    for n in range(4):
        picture(tmp_path / f"p/{n}.png", noise(n, (20, 16, 3)))
    sources = [folder(tmp_path / "v"), folder(tmp_path / "p")]
    whole = batches(mixture(sources, augment=True))
    again = [folder(tmp_path / "v"), folder(tmp_path / "p")]
    assert_same(batches(mixture(again, augment=True, start=5), 2), whole[5:])


def test_two_processes_make_the_batch_of_one():
    sources = [Numbers("a", 13, damaged=(4,)), Numbers("b", 50)]
    one = batches(mixture(sources, batch_size=8, augment=True))
    two = [batches(mixture(sources, batch_size=4, augment=True, process_index=p, num_processes=2)) for p in (0, 1)]
    for whole, left, right in zip(one, *two, strict=True):
        assert torch.equal(whole["pixel_values"], torch.cat([left["pixel_values"], right["pixel_values"]]))
        assert whole["names"] == left["names"] + right["names"]
        assert whole["skipped"] == left["skipped"] + right["skipped"]
    firsts = [[n for b in part for n in b["names"] if n[0] == "b"] for part in two]
    assert firsts[0] and firsts[1] and not set(firsts[0][:10]) & set(firsts[1][:10])


def test_damaged_files_are_counted_named_and_replaced(tmp_path):
    for n in range(5):
        picture(tmp_path / f"{n}.jpg", noise(n, (60, 60)), cut=400 if n in (1, 2) else None)
    got = batches(mixture([folder(tmp_path)], steps=5, batch_size=1))
    replaced = {Path(b["skipped"][0][0]).name: Path(b["names"][0]).name for b in got if b["skipped"]}
    assert replaced == {"1.jpg": "3.jpg", "2.jpg": "3.jpg"}
    assert all("cannot be read as a picture" in reason for b in got for _, reason in b["skipped"])
    assert sum(len(b["skipped"]) for b in got) == 3


def test_one_damaged_volume_of_many_slices_does_not_end_the_run(tmp_path, monkeypatch):
    path = nifti(tmp_path / "a.nii.gz", noise(0, (20, 20, 150)))
    path.write_bytes(path.read_bytes()[:3000])
    nifti(tmp_path / "b.nii.gz", noise(1, (20, 20, 5)))
    reads = []
    real = folder_module.read_scan
    monkeypatch.setattr(folder_module, "read_scan", lambda *a, **k: reads.append(a[0].name) or real(*a, **k))
    for values in ({}, {"max_images": 31}):
        source = folder(tmp_path, **values)
        assert [source.after(n) for n in (0, len(source) - 1)] == [len(source) - (1 if values else 5), 0]
        reads.clear()
        got = batches(mixture([source], steps=8))
        assert all("b.nii.gz" in name for b in got for name in b["names"])
        assert sum(len(b["skipped"]) for b in got) > 20 and {Path(f).name for b in got for f, _ in b["skipped"]} == {
            "a.nii.gz"
        }
        assert sorted(reads) == ["a.nii.gz", "b.nii.gz"]


def test_nothing_but_damaged_files_ends_the_run():
    with pytest.raises(DataError, match="(?s)100 images of the source a .*half a file"):
        batches(mixture([Numbers("a", 300, damaged=range(150))], steps=200))
    with pytest.raises(DataError, match="3 images of the source a in a row"):
        batches(mixture([Numbers("a", 3, damaged=range(3))]))


@pytest.mark.parametrize(
    ("sources", "weights"),
    [([], []), ([Numbers("a", 3)], [1, 2]), ([Numbers("a", 3)], [0]), ([Numbers("a", 3)], [float("nan")])],
)
def test_weights_that_do_not_fit_are_refused(sources, weights):
    with pytest.raises(DataError, match="weights"):
        Mixture(sources, weights, 4, 9, 16, 0)


def test_an_empty_source_is_refused():
    with pytest.raises(DataError, match="a is empty"):
        mixture([Numbers("a", 0)])


def test_a_stream_in_a_mixture_resumes_to_the_bit_and_skips_what_is_damaged(tmp_path, cache):
    root = parquet(tmp_path / "shards", rows=7, damaged=(3, 9))

    def make(**changes):
        return mixture([stream(root, buffer=4), Numbers("b", 5)], augment=True, **changes)

    whole = batches(make())
    assert sum(len(b["skipped"]) for b in whole) >= 2
    assert all(
        ("3.png" in name or "9.png" in name) and "cannot be read" in reason
        for b in whole
        for name, reason in b["skipped"]
    )
    for start in range(1, 9):
        assert_same(batches(make(start=start)), whole[start:])
    assert_same(batches(make(), workers=1), whole)
    assert_same(batches(make(start=4), workers=1), whole[4:])


def test_processes_of_a_stream_in_a_mixture_count_their_own_draws(tmp_path, cache):
    root = parquet(tmp_path / "shards", shards=2, rows=20)
    seen = []
    for process in (0, 1):
        make = dict(process_index=process, num_processes=2, batch_size=2)
        whole = batches(mixture([stream(root, buffer=4), Numbers("b", 5)], **make))
        assert_same(batches(mixture([stream(root, buffer=4), Numbers("b", 5)], **make, start=5)), whole[5:])
        seen.append([name for b in whole for name in b["names"] if "stream" in name])
    assert not set(seen[0]) & set(seen[1]) and all(len(names) == len(set(names)) for names in seen)


def test_each_process_has_its_part_whatever_its_loading_workers(tmp_path, cache):
    """Free access with two workers, a stream with one: the batches without workers, and no example in two processes."""
    root = parquet(tmp_path / "shards", shards=2, rows=20)
    for make_sources, workers in ((lambda: [Numbers("a", 64)], 2), (lambda: [stream(root, buffer=4)], 1)):
        seen = []
        for process in (0, 1):
            make = dict(process_index=process, num_processes=2, batch_size=2, steps=5)
            alone = batches(mixture(make_sources(), **make))
            assert_same(batches(mixture(make_sources(), **make), workers=workers), alone)
            seen.append({name for batch in alone for name in batch["names"]})
        assert len(seen[0]) == len(seen[1]) == 10 and not seen[0] & seen[1]


def test_a_stream_takes_one_worker_at_most(tmp_path, cache):
    with pytest.raises(DataError, match="cannot be shared among loading workers"):
        batches(mixture([stream(parquet(tmp_path / "shards"))]), workers=2)


# -- views -------------------------------------------------------------------------------------------------------------


def test_views_are_random_repeatable_in_range_and_grey_stays_grey():
    image = np.repeat(noise(0, (40, 30)).astype(np.float32)[..., None] / 255, 3, axis=2)
    views = [augment(image, np.random.default_rng(n), 24) for n in range(30)]
    again = [augment(image, np.random.default_rng(n), 24) for n in range(30)]
    assert all(np.array_equal(a, b) for a, b in zip(views, again, strict=True))
    assert len({view.tobytes() for view in views}) == 30 and len({view.shape for view in views}) > 5
    assert all(max(view.shape[:2]) == 24 and view.dtype == np.float32 for view in views)
    assert all(view.min() >= 0 and view.max() <= 1 for view in views)
    assert max(np.ptp(view, axis=2).max() for view in views) < 1e-6
    grey = [augment(image[..., 0], np.random.default_rng(n), 24) for n in range(30)]
    assert max(np.abs(view[..., 0] - flat).max() for view, flat in zip(views, grey, strict=True)) < 1e-5


def test_a_crop_keeps_at_least_two_fifths_and_flips_now_and_then():
    ramp = np.tile(np.linspace(0.3, 0.7, 100, dtype=np.float32), (100, 1))
    views = [augment(ramp, np.random.default_rng(n), 50) for n in range(60)]
    rising = sum(view[:, -5:].mean() > view[:, :5].mean() for view in views)
    assert 15 < rising < 45
    crops = [_crop(ramp, np.random.default_rng(n)).shape for n in range(200)]
    areas = [height * width / 100**2 for height, width in crops]
    assert 0.38 < min(areas) < 0.45 and 0.9 < max(areas) <= 1
    assert 0.74 < min(height / width for height, width in crops) < 0.8


def test_blur_and_noise_do_not_mix_colours():
    image = np.broadcast_to(np.array([0.2, 0.5, 0.8], np.float32), (40, 40, 3))
    for n in range(60):
        view = augment(image, np.random.default_rng(n), 24)
        assert np.ptp(view.mean((0, 1))) > 0.25 and view[..., 0].max() < view[..., 2].min() + 0.1, n


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2, 3)])
def test_tiny_and_constant_images_are_no_trouble(shape):
    for n in range(10):
        view = augment(np.full(shape, 0.5, np.float32), np.random.default_rng(n), 8)
        assert np.isfinite(view).all() and max(view.shape[:2]) == 8


@pytest.mark.parametrize(
    "file",
    [
        "labelsVa/amos_0008.nii.gz", "BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz", "W39_1998.09.19_Segm.nii",
        "patient001/patient001_frame01_gt.nii.gz", "p_mask/0000.PNG", "Disc_Cup_Masks/g0001.bmp", "gts/V0001.bmp",
        "RIGA-mask/BinRushed/image1-1.tif", "case_00000/instances/kidney_instance-1_annotation-1.nii.gz",
        "ISIC_0000000_superpixels.png", "images/a_mask.png",
        # as others call them
        "segmentation/a.png", "seg/a.png", "GroundTruth/a.png", "ground_truth/a.png", "annotations/a.png",
        "labels_train/a.png", "masks_png/a.png", "train_masks/a.png", "ISIC2018_Task1_Training_GroundTruth/a.png",
        "benign/benign (1)_mask_1.png", "sub-01_dseg.nii.gz", "label_total.nii.gz", "mask_01.png", "seg-12.nii",
        "a_seg2.nii.gz", "000_HC_Annotation.png", "a_mask1.png",
    ],
)  # fmt: skip
def test_masks_are_no_pictures_to_learn_from(file):
    assert is_reference(file)


@pytest.mark.parametrize(
    "file",
    [
        "images/segovia.png", "imagesTr/amos_0008.nii.gz", "magnet.png", "unmasked.png", "label_0/a.png",
        "images_without_masks/a.png", "no_labels/a.png", "seg01/a.png", "label-free_01.tif", "face_label_3.png",
        "masked_ct.nii.gz", "segment_1.png", "labelled/a.png", "benign (1).png", "unlabelled/a.png",
    ],
)  # fmt: skip
def test_pictures_are_no_references(file):
    assert not is_reference(file)


def test_a_table_that_is_no_utf8_further_down_is_named(tmp_path):
    lines = ["image,level", *(f"{number}_left,0" for number in range(3000))]
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode() + b"\nM\xfcller_left,0\n")
    with pytest.raises(DataError, match="UTF-8"):
        open_source({"kind": "eyepacs", "path": str(tmp_path), "csv": "t.csv"})
