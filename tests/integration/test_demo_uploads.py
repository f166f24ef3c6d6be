"""Files of strangers through one running demo: each gives one clear sentence, and the next visitor notices nothing."""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")

from gradio_client import handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

from demo_server import Raw, client, file_data, serving  # noqa: E402
from demo_setup import adapted  # noqa: E402
from medsam_adapter.demo.uploads import Limits  # noqa: E402
from medsam_adapter.inference.predictor import MSAPredictor  # noqa: E402
from miniatures.dicom import series  # noqa: E402

pytestmark = pytest.mark.slow
MB = 2**20
LIMITS = Limits(8 * MB, 24 * MB, voxels=2_000_000, picture_pixels=1_000_000, files=40)
MOST_MEMORY = 8 * LIMITS.unpacked_bytes
"""What an upload may take for a moment; the bombs are larger."""
BOMB_BYTES = 400 * MB
RNG = np.random.default_rng(0)
NUMBERS = RNG.integers(0, 900, (20, 18, 5)).astype(np.int16)
AFFINE = np.diag([-1.5, -1.5, 3, 1])
CLICK = (48, 48, 12, 1)


@dataclass(frozen=True)
class Upload:
    """`make` writes the files into a folder and returns them; `says` is what the answer must tell."""

    what: str
    make: Callable[[Path], Path | list[Path]]
    says: str


CASES: list[Upload] = []


def upload(what: str, says: str) -> Callable:
    def take(make: Callable[[Path], Path | list[Path]]) -> Callable:
        CASES.append(Upload(what, make, says))
        return make

    return take


def put(what: str, name: str, content: bytes | Callable[[], bytes], says: str) -> None:
    """A case of one file."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content())
        return folder / name

    CASES.append(Upload(what, make, says))


# -- NIfTI -------------------------------------------------------------------------------------------------------------


def nifti(data: np.ndarray = NUMBERS) -> bytes:
    return nib.Nifti1Image(data, AFFINE).to_bytes()


def patched(at: int, form: str, *values: float, of: bytes | None = None) -> bytes:
    data, new = of or nifti(), struct.pack("<" + form, *values)
    return data[:at] + new + data[at + len(new) :]


def with_affine(affine: np.ndarray) -> bytes:
    """nibabel would not write it."""
    return patched(280, "12f", *affine[:3].ravel(), of=patched(252, "2h", 0, 1))


def with_value(value: float) -> bytes:
    data = NUMBERS.astype(np.float32)
    data[3, 4, 2] = value
    return nifti(data)


put("a cut .nii.gz", "cut.nii.gz", gzip.compress(nifti())[:900], r"cut\.nii\.gz.*(cut|damaged|cannot be read)")
put("a .nii.gz that is no gzip", "no.nii.gz", b"hello " * 100, r"no\.nii\.gz")
put("an empty .nii.gz", "none.nii.gz", b"", r"none\.nii\.gz.*empty")
put("a cut .nii", "cut.nii", nifti()[:-50], r"cut\.nii")
put("a header alone", "head.nii", nifti()[:352], r"head\.nii")
put("30000^3 voxels by the header", "huge.nii", patched(42, "3h", 30000, 30000, 30000), "too large")
put("a negative axis", "minus.nii", patched(42, "h", -20), r"minus\.nii")
put("an axis of 0", "zero.nii", patched(44, "h", 0), r"zero\.nii")
put("no axes", "flat.nii", patched(40, "h", 0), r"flat\.nii")
put("an unknown voxel type", "kind.nii", patched(70, "2h", 9999, 16), r"kind\.nii")
put("voxels at nowhere", "offset.nii", patched(108, "f", np.nan), r"offset\.nii")
put("another magic", "magic.nii", patched(344, "4s", b"xx1\0"), r"magic\.nii")
put("a 4-D volume", "four.nii.gz", lambda: gzip.compress(nifti(np.stack([NUMBERS] * 3, -1))), r"four\.nii\.gz.*volumes")
put("five axes of channels", "five.nii", lambda: nifti(np.stack([NUMBERS] * 2, -1)[:, :, :, None]), r"five\.nii")
put("NaN", "nan.nii", with_value(np.nan), r"nan\.nii.*(NaN|finite|numbers)")
put("infinity", "inf.nii", with_value(np.inf), r"inf\.nii.*([Ii]nf|finite|numbers)")
put("a singular affine", "flat.nii", with_affine(np.diag([1.0, 1, 0, 1])), "affine|axes|singular")
put("an affine of NaN", "nan.nii", with_affine(np.diag([np.nan, 1, 1, 1])), "affine|axes|geometry|finite")
put("one value everywhere", "same.nii.gz", gzip.compress(nifti(NUMBERS * 0 + 7)), "shows nothing.*7 everywhere")
put("more voxels than allowed", "big.nii.gz", lambda: gzip.compress(nifti(np.eye(1600, dtype=np.int8)[..., None])),
    "too large for this demo.*2 million")  # fmt: skip
put("a gzip bomb", "bomb.nii.gz", lambda: gzip.compress(nifti() + bytes(BOMB_BYTES), 1), "too large")
put("a gzip bomb by its header, too", "bomb.nii.gz",
    lambda: gzip.compress(patched(42, "3h", 1000, 1000, 400) + bytes(BOMB_BYTES), 1), "too large")  # fmt: skip

# -- pictures ----------------------------------------------------------------------------------------------------------


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def picture(form: str, size: tuple[int, int] = (40, 30), grey: int | None = None) -> bytes:
    data = RNG.integers(0, 255, size, np.uint8) if grey is None else np.full(size, grey, np.uint8)
    stream = io.BytesIO()
    Image.fromarray(data).save(stream, form)
    return stream.getvalue()


put("100000 x 100000 pixels by the header", "huge.png", png(100000, 100000, bytes(500)), "too large")
put("a PNG of 8000 x 8000 that is there", "wide.png", lambda: picture("PNG", (8000, 8000), 3), "too large")
put("a picture of more than allowed", "wide.png", lambda: picture("PNG", (1200, 1000)), "too large for this demo")
for form, suffix in (("PNG", "png"), ("JPEG", "jpg"), ("TIFF", "tif"), ("BMP", "bmp")):
    whole = picture(form)
    put(f"a cut .{suffix}", f"cut.{suffix}", whole[: len(whole) // 2], rf"cut\.{suffix}.*cannot be read as a picture")
put("a text that says it is a PNG", "letter.png", b"Dear patient, " * 40, r"letter\.png.*cannot be read as a picture")
put("a PNG of no columns", "none.png", png(0, 5), r"none\.png")
put("one pixel", "dot.png", picture("PNG", (1, 1)), "too small")
put("one value everywhere in a picture", "same.png", picture("PNG", grey=9), "shows nothing")
put("a text", "notes.txt", b"hello", r"notes\.txt.*kind that cannot be opened.*\.nii\.gz")
put("a program", "run.sh", b"#!/bin/sh\ntouch /tmp/x\n", r"run\.sh.*kind that cannot be opened")
put("a name without a suffix", "scan", b"hello", "kind that cannot be opened")
put("a page", "page.svg", b"<svg onload='alert(1)'/>", "kind that cannot be opened")
put("an empty picture", "none.jpg", b"", r"none\.jpg")


@upload("two pictures", "one DICOM series only")
def _(folder: Path) -> list[Path]:
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(picture("PNG"))
    return [folder / "a.png", folder / "b.png"]


# -- DICOM -------------------------------------------------------------------------------------------------------------


def slices(folder: Path, name: str = "{}.dcm", depth: int = 4, columns: int = 18, **values: object) -> list[Path]:
    series(folder, RNG.integers(0, 900, (depth, 20, columns)).astype(np.int16), name=name, **values)
    return sorted(path for path in folder.iterdir() if path.is_file())


@upload("a cut DICOM file", r"\.dcm|series")
def _(folder: Path) -> list[Path]:
    files = slices(folder)
    files[1].write_bytes(files[1].read_bytes()[:500])
    return files


@upload("one DICOM file, cut", r"0\.dcm")
def _(folder: Path) -> Path:
    file = slices(folder, depth=1)[0]
    file.write_bytes(file.read_bytes()[:-200])
    return file


@upload("two series", "series")
def _(folder: Path) -> list[Path]:
    slices(folder, "a{}.dcm", series="a")
    return slices(folder, "b{}.dcm", series="b")


@upload("a series with a hole", "slice|spacing|missing|apart")
def _(folder: Path) -> list[Path]:
    files = slices(folder, depth=6)
    return [*files[:2], *files[3:]]


@upload("slices of two sizes", "size|rows|shape|differ|slices")
def _(folder: Path) -> list[Path]:
    files = slices(folder)
    others = slices(folder / "other", depth=4, columns=17)
    return [*files[:2], others[2], files[3]]


@upload("a DICOM file of zeros", r"zeros\.dcm")
def _(folder: Path) -> Path:
    (folder / "zeros.dcm").write_bytes(bytes(900))
    return folder / "zeros.dcm"


@upload("a DICOM series and a picture", "one DICOM series only")
def _(folder: Path) -> list[Path]:
    files = slices(folder)
    (folder / "a.png").write_bytes(picture("PNG"))
    return [*files, folder / "a.png"]


@upload("more files than allowed", "too many files.*40")
def _(folder: Path) -> list[Path]:
    return slices(folder, "{:03d}.dcm", depth=41)


# -- archives ----------------------------------------------------------------------------------------------------------


def archive(*members: tuple[str | zipfile.ZipInfo, bytes], name: str = "scans.zip") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as file:
            for member, content in members:
                file.writestr(member, content)
        return folder / name

    return make


def link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info, target.encode()


HOLDS = "does not hold one scan"
PLAIN, TWO = picture("PNG"), "0 DICOM files and 2 images"
upload("an empty archive", f"{HOLDS}.*0 DICOM files and 0 images")(archive())
upload("an archive of texts", HOLDS)(archive(("a.txt", b"hello"), ("b.csv", b"1,2")))
upload("an archive with two pictures", f"{HOLDS}.*{TWO}")(archive(("a.png", PLAIN), ("b.png", PLAIN)))
upload("an archive in an archive", HOLDS)(
    lambda f: archive(("inner.zip", archive(("a.png", PLAIN))(f).read_bytes()))(f)
)
upload("names that lead out", HOLDS)(
    archive(("../../evil.png", PLAIN), ("..\\..\\evil2.png", PLAIN), ("a/../../../evil3.png", PLAIN))
)
upload("names from the root", HOLDS)(archive(("/tmp/msa_evil.png", PLAIN), ("C:\\msa_evil.png", PLAIN)))
upload("a link to a file of the machine", "holds a link")(archive(link("scan.png", "/etc/passwd")))
upload("a link to a folder", "holds a link")(archive(link("a", "/"), ("a/b.png", PLAIN)))
upload("5000 members", "too many files.*40")(archive(*[(f"{n}.txt", b"") for n in range(5000)]))
upload("an archive of droppings alone", HOLDS)(archive(("__MACOSX/._a.png", PLAIN), (".DS_Store", b"1")))
upload("a zip bomb", "too much|too large")(lambda f: archive(("zeros.nii", bytes(BOMB_BYTES)))(f))
upload("a bomb in pieces", "too much|too large")(
    lambda f: archive(*[(f"{n}.dcm", bytes(9 * MB)) for n in range(30)])(f)
)
upload("a picture that is none in an archive", "cannot be read as a picture")(archive(("a.png", b"hello")))
put("an archive that is none", "no.zip", b"PK\x03\x04" + bytes(60), r"no\.zip")
put("an archive without its end", "cut.zip", b"PK\x03\x04 and so on", r"cut\.zip")


@upload("a password", "locked with a password")
def _(folder: Path) -> Path:
    file = archive(("a.png", PLAIN))(folder)
    data = bytearray(file.read_bytes())
    data[6] |= 1  # the flag of the member, and of its entry in the list at the end
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(bytes(data))
    return file


@upload("an archive that lies about sizes", r"scans\.zip|cannot be read")
def _(folder: Path) -> Path:
    file = archive(("a.nii", nifti()))(folder)
    data = bytearray(file.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24  # the size when it is unpacked
    data[at : at + 4] = struct.pack("<I", 10)
    file.write_bytes(bytes(data))
    return file


@upload("a damaged member", r"scans\.zip: is damaged")
def _(folder: Path) -> Path:
    file = archive(("a.nii", nifti()))(folder)
    data = bytearray(file.read_bytes())
    data[60:80] = bytes(20)
    file.write_bytes(bytes(data))
    return file


@upload("an unknown packing", r"scans\.zip: is damaged")
def _(folder: Path) -> Path:
    file = archive(("a.png", PLAIN))(folder)
    data = bytearray(file.read_bytes())
    data[8:10] = struct.pack("<H", 77)
    at = data.rindex(b"PK\x01\x02") + 10
    data[at : at + 2] = struct.pack("<H", 77)
    file.write_bytes(bytes(data))
    return file


# -- the server --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(randomise, quiet, tmp_path_factory):
    with serving(
        tmp_path_factory.mktemp("server"), MSAPredictor(adapted(randomise), device="cpu"), limits=LIMITS
    ) as demo:
        yield demo


@pytest.fixture(scope="module")
def visitor(demo, tmp_path_factory):
    """Somebody who has an example open."""
    one = client(demo, tmp_path_factory.mktemp("downloads"))
    one.predict("phantom CT", api_name="/open_example")
    one.predict(*CLICK, api_name="/click")
    yield one
    one.close()


class Memory:
    """The most that this process holds while a test runs, above what it held before, in bytes."""

    def __init__(self):
        self.before = self.most = self._now()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @staticmethod
    def _now() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def _watch(self) -> None:
        while not self._is_over.wait(0.003):
            self.most = max(self.most, self._now())

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        self._thread.join()


def outside(demo) -> set[Path]:
    """Everything below the server's folder that is neither Gradio's nor a visitor's nor an example."""
    ours = ("gradio", "msa-demo-")
    return {path for path in demo.root.iterdir() if not path.name.startswith(ours)}


def unpacked(demo) -> list[Path]:
    """The folders of opened scans. Visitors of earlier tests may leave meanwhile: `os.walk` forgives what is gone."""
    folders = (Path(at) / name for at, names, _ in os.walk(demo.root) for name in names)
    return sorted(path for path in folders if path.match("msa-demo-*/tmp*"))


def planted(folder: Path) -> list[str]:
    return [name for _, _, names in os.walk(folder) for name in names if fnmatch(name, "evil*.png")]


def assert_fit_for_a_visitor(text: str, demo) -> None:
    assert str(demo.root) not in text and "/tmp/" not in text and "gradio" not in text, text
    assert "Traceback" not in text and 'File "' not in text and len(text) < 1500, text


def refusal(visitor, files: list[Path]) -> str:
    try:
        facts = visitor.predict([handle_file(file) for file in files], api_name="/open")
    except AppError as error:
        return str(error)
    visitor.predict("phantom CT", api_name="/open_example")  # for the tests that follow
    pytest.fail(f"opened: {facts}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_refused_and_the_example_goes_on(demo, visitor, case, tmp_path, capfd):
    files = case.make(tmp_path)
    files = files if isinstance(files, list) else [files]
    before, folders = outside(demo), unpacked(demo)
    with Memory() as memory:
        text = refusal(visitor, files)
    assert re.search(case.says, text, re.DOTALL), text
    assert_fit_for_a_visitor(text, demo)
    assert memory.most - memory.before < MOST_MEMORY
    assert outside(demo) == before and unpacked(demo) == folders
    assert not [*Path("/tmp").glob("msa_evil*"), *planted(demo.root.parent)]
    assert "Traceback" not in capfd.readouterr().err  # what a visitor did wrong is nothing for the server's log
    state = visitor.predict(*CLICK, api_name="/click")
    assert state["objects"][0]["voxels"] > 50
    visitor.predict(api_name="/undo")


def test_more_than_may_arrive(demo):
    raw = Raw(demo)
    answer = raw.upload("large.nii", bytes(9 * MB))
    raw.close()
    assert answer.status_code == 413 and "maximum" in answer.text
    assert_fit_for_a_visitor(answer.text, demo)


@pytest.mark.parametrize("at", range(0, 348, 12))
def test_blanked_headers(demo, at):
    """12 bytes of a header are 255, as a broken disk has them: opened as what it says, or refused with its name."""
    raw = Raw(demo)
    blank = nifti()[:at] + b"\xff" * 12 + nifti()[at + 12 :]
    kind, said = raw.call("open", [file_data(raw.upload("odd.nii", blank[: len(nifti())]).json()[0])])
    if kind == "error":
        assert_fit_for_a_visitor(str(said), demo)
        assert re.search(r"odd\.nii|affine", str(said)), said
    else:
        assert np.isfinite(said[0]["spacing_mm"]).all() and min(said[0]["spacing_mm"]) > 0, said
        kind, said = raw.call("click", 5, 5, 2, 1)
        assert kind == "complete", said
    raw.close()


def test_there_are_enough_of_them():
    assert len(CASES) >= 60 and len({case.what for case in CASES}) == len(CASES)


NAMES = [
    "a" * 300 + ".png", "na\0me.png", "snöwmän ☃ 雪.png", "CON.png", "nul.PNG", "..png", "../../up.png", "..\\up.png",
    "/etc/cron.d/x.png", "a:b*c?.png", "%2e%2e%2fup.png", "a b\tc\n.png", "$(touch x).png", "-rf.png", "‮gnp.exe.png",
    "<img src=x onerror=alert(1)>.png", ".png", " ",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=[f"{n}" for n in range(len(NAMES))])
def test_odd_names(demo, name):
    """Opened under whatever name the server makes of it, or refused; saved inside the visitor's folder."""
    raw, before = Raw(demo), outside(demo)
    try:
        answer = raw.upload(name, PLAIN)
        assert answer.status_code in (200, 400, 422), answer.text
        if answer.status_code == 200:
            sent = {**file_data(answer.json()[0]), "orig_name": name}
            kind, said = raw.call("open", [sent])
            assert_fit_for_a_visitor(str(said.get("error", "") if isinstance(said, dict) else said), demo)
            if kind == "complete":
                assert raw.call("click", 10, 10, 0, 1)[0] == "complete"
                kind, saved = raw.call("session")
                assert kind == "complete" and Path(saved[0]["path"]).is_relative_to(demo.root / "gradio")
            else:
                assert kind == "error" and "cannot be opened" in str(said), said
    finally:
        raw.close()
    assert outside(demo) == before


def test_what_is_right_is_opened(demo, tmp_path):
    """The same ways in, with nothing wrong: the refusals above are not all there is."""
    one = client(demo, tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    files = slices(tmp_path / "a")
    assert one.predict([handle_file(file) for file in files], api_name="/open")["shape_zyx"] == [4, 20, 18]
    zipped = archive(*[(f"x/{file.name}", file.read_bytes()) for file in files], ("x/notes.txt", b"hello"))(
        tmp_path / "b"
    )
    assert one.predict([handle_file(zipped)], api_name="/open")["shape_zyx"] == [4, 20, 18]
    inside = archive(("deep/../../scan.nii.gz", gzip.compress(nifti())), ("__MACOSX/._scan.nii.gz", b"1"))(
        tmp_path / "b"
    )
    assert one.predict([handle_file(inside)], api_name="/open")["shape_zyx"] == [5, 18, 20]
    one.close()
    folders = [path.parent for path in unpacked(demo)]
    assert len(folders) == len(set(folders)), "a scan that is closed is still there"
