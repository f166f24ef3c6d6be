"""Several visitors of one demo: each keeps their own, nobody gets at another's, what they save can be made again."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")

from gradio_client import handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

from blobs import LPS, PERMUTED, RAS, blob, tilted  # noqa: E402
from demo_server import Raw, client, file_data, serving  # noqa: E402
from demo_setup import SHAPE_ZYX, SPACING_MM, adapted, centre_of, workspace, write_organ, write_run  # noqa: E402
from medsam_adapter.cli.main import run  # noqa: E402
from medsam_adapter.data.io import read_label, read_scan  # noqa: E402
from medsam_adapter.demo import endpoints  # noqa: E402
from medsam_adapter.evaluation.metrics import mask_metrics  # noqa: E402
from medsam_adapter.inference.predictor import MSAPredictor  # noqa: E402
from miniatures.dicom import series  # noqa: E402
from miniatures.volumes import save_nifti  # noqa: E402

pytestmark = pytest.mark.slow
PLAIN = "SAM without adapter"
AXES = [LPS, RAS, PERMUTED, tilted(LPS)]


@pytest.fixture(scope="module")
def adapters(randomise, quiet, tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [write_run(root / name, adapted(randomise, seed)) for name, seed in (("first", 1), ("second", 2))]


@pytest.fixture(scope="module")
def demo(adapters, tmp_path_factory):
    predictor = MSAPredictor.from_pretrained("sam-tiny", device="cpu")
    with serving(tmp_path_factory.mktemp("server"), predictor, *map(str, adapters), most_visitors=24) as demo:
        yield demo


@pytest.fixture
def come(demo, tmp_path):
    """come() is a new visitor, who leaves when the test ends."""
    here = []

    def make():
        folder = tmp_path / f"downloads_{len(here)}"
        folder.mkdir()
        here.append(client(demo, folder))
        return here[-1]

    yield make
    for each in here:
        each.close()


def mask_of(one) -> np.ndarray:
    """(D, H, W) or (H, W) as /mask gives it."""
    path = one.predict(api_name="/mask")
    return (
        np.asarray(Image.open(path)) if path.endswith(".png") else np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)
    )


def wait_until(holds, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    return holds()


# -- apart from each other ---------------------------------------------------------------------------------------------


def plan(number: int) -> dict:
    """What the n-th visitor does; no two of them do the same."""
    seed, shape = number % 4, (SHAPE_ZYX[0] + number % 3, *SHAPE_ZYX[1:])
    x, y, z = centre_of(seed, shape)
    clicks = [(x, y, z, 1), (x + 1 + number % 3, y - 2, z, 1), (1, 1, z, 0)][: 1 + number % 3]
    return {
        "seed": seed, "shape": shape, "axes": LPS, "clicks": clicks, "model": [None, "second", PLAIN][number % 3],
        "is_whole": number % 2 == 1,
    }  # fmt: skip


def follow(one, number: int, folder: Path) -> np.ndarray:
    said = plan(number)
    file = write_organ(folder / f"organ_{number}.nii.gz", said["axes"], said["seed"], said["shape"])
    one.predict([handle_file(file)], api_name="/open")
    if said["model"]:
        one.predict(said["model"], api_name="/model")
    for click in said["clicks"]:
        one.predict(*click, api_name="/click")
    if said["is_whole"]:
        one.predict(api_name="/whole_volume")
    state = one.predict(api_name="/state")
    mask = mask_of(one)
    assert state["objects"][0]["voxels"] == int((mask > 0).sum())
    assert state["objects"][0]["prompt"]["points"] == [[float(v) for v in click[:3]] for click in said["clicks"]]
    return mask


def test_eight_at_once_get_what_each_gets_alone(come, tmp_path):
    alone = [follow(come(), number, tmp_path) for number in range(8)]
    assert all(10 < mask.sum() for mask in alone)
    assert len({mask.tobytes() for mask in alone}) == 8
    together, start = [come() for _ in range(8)], threading.Barrier(8)
    (tmp_path / "together").mkdir()

    def act(number: int) -> np.ndarray:
        start.wait()
        return follow(together[number], number, tmp_path / "together")

    with ThreadPoolExecutor(8) as pool:
        for number, mask in enumerate(pool.map(act, range(8))):
            np.testing.assert_array_equal(mask, alone[number], err_msg=str(plan(number)))


def test_the_same_example_at_once(come):
    visitors = [come() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        facts = list(pool.map(lambda one: one.predict("phantom CT, finer", api_name="/open_example"), visitors))
    assert all(each == facts[0] for each in facts) and facts[0]["shape_zyx"] == [48, 160, 160]


def test_who_leaves_is_forgotten(demo, come):
    wait_until(lambda: not len(demo.visitors))
    stays, leaves = come(), come()
    for one in (stays, leaves):
        one.predict("phantom skin lesion", api_name="/open_example")
    folders = {each: demo.visitors.space(each.session_hash).folder for each in (stays, leaves)}
    assert all(folder.is_dir() for folder in folders.values())
    leaves.close()
    assert wait_until(lambda: not folders[leaves].exists()), "the folder of who left is still there"
    assert len(demo.visitors) == 1 and folders[stays].is_dir()
    assert stays.predict(api_name="/state")["objects"][0]["voxels"] == 0


# -- files of the server -----------------------------------------------------------------------------------------------


def test_no_file_of_the_server_can_be_read(demo, come, tmp_path):
    victim = come()
    victim.predict([handle_file(write_organ(tmp_path / "organ.nii.gz"))], api_name="/open")
    victim.predict(*centre_of(), 1, api_name="/click")
    victim.predict(api_name="/mask")
    space = demo.visitors.space(victim.session_hash)
    theirs = [path for path in space.folder.rglob("*") if path.is_file()]
    assert len(theirs) == 2
    secret = tmp_path / "secret.png"
    Image.fromarray(np.eye(30, dtype=np.uint8)).save(secret)
    raw = Raw(demo)
    places = ["/etc/passwd", str(secret), *map(str, theirs), *map(str, space.folder.glob("tmp*")), "../../etc/passwd",
              f"{demo.address}gradio_api/info", "file:///etc/passwd", str(Path(endpoints.__file__)), ""]  # fmt: skip
    for place in places:
        for data in (file_data(place), {**file_data(place), "url": f"file://{place}"}, {"path": place}):
            kind, said = raw.call("open", [data])
            assert kind != "complete", (data, said)
            assert "root:" not in str(said)
            kind, said = raw.call("compare", PLAIN, PLAIN, data)
            assert kind != "complete", (data, said)
        kind, said = raw.call("open", [place])
        assert kind != "complete", said
        answer = raw.http.get(f"/file={place}")
        assert answer.status_code in (403, 404, 307), (place, answer.status_code)
    raw.close()


def test_without_a_session_there_is_no_common_workspace(demo):
    """/run answers without the queue, and would with no session either."""
    raw = Raw(demo)
    for _ in range(2):
        answer = raw.http.post("/run/open_example", json={"data": ["phantom skin lesion"]})
        assert answer.status_code == 404, answer.text
    for session in ({}, {"session_hash": None}, {"session_hash": ""}):
        raw.http.post("/call/open_example", json={"data": ["phantom skin lesion"], **session})
    time.sleep(0.5)
    raw.session = ""
    joined = raw.http.post("/call/state", json={"data": []}).json()["event_id"]
    assert "event: error" in raw.http.get(f"/call/state/{joined}").text  # no scan is open
    raw.close()


def test_what_is_for_the_page_alone_is_no_endpoint(come):
    named = come().view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {
        "/open", "/open_example", "/window", "/preset", "/click", "/box", "/say", "/whole_volume", "/undo", "/redo",
        "/clear", "/add_object", "/choose_object", "/model", "/state", "/view", "/compare", "/mask", "/session",
        "/dicom_seg",
    }  # fmt: skip


# -- what each endpoint does -------------------------------------------------------------------------------------------


def test_a_volume_from_end_to_end(come, demo, tmp_path, adapters):
    """All endpoints beside the workspace itself, which is asked the same."""
    one = come()
    own = workspace(MSAPredictor.from_pretrained("sam-tiny", device="cpu"), *map(str, adapters))
    file, (x, y, z) = write_organ(tmp_path / "organ.nii.gz"), centre_of()
    facts = one.predict([handle_file(file)], api_name="/open")
    own.open([file])
    scan = read_scan(file)
    assert facts["shape_zyx"] == list(SHAPE_ZYX) and facts["spacing_mm"] == list(scan.spacing_mm)
    assert facts["name"] == "organ.nii.gz" and facts["planes"] == {"axial": 7, "coronal": 40, "sagittal": 34}
    assert facts["modality"] == "MR or other" and str(int(scan.array.max())) in facts["reason"]
    assert facts["window"] == list(own.window)

    facts = one.predict("full range", api_name="/preset")
    assert facts["window"] == [scan.array.min(), scan.array.max()]
    assert one.predict(90, 210, api_name="/window")["window"] == [90, 210]
    own.window = (90.0, 210.0)

    def same() -> dict:
        state = one.predict(api_name="/state")
        assert [each["voxels"] for each in state["objects"]] == [int(each.mask.sum()) for each in own.objects]
        assert [each["prompt"] for each in state["objects"]] == [
            json.loads(json.dumps(each.thing.prompt.to_json())) for each in own.objects
        ]
        if any(each["voxels"] for each in state["objects"]):
            np.testing.assert_array_equal(mask_of(one), own.labels())
        assert state["active"] == own.active and state["model"] == own.choice
        return state

    one.predict(x, y, z, 1, api_name="/click")
    own.click_voxel((x, y, z))
    state = same()
    assert state["models"] == [PLAIN, "first", "second"] or set(state["models"]) == {PLAIN, "first", "second"}
    ml = state["objects"][0]["voxels"] * SPACING_MM[0] * SPACING_MM[1] * SPACING_MM[2] / 1000
    assert state["objects"][0]["volume_ml"] == pytest.approx(ml, abs=1e-3) and not state["objects"][0]["is_carried"]
    one.predict("second", api_name="/model")
    own.use_model("second")
    same()
    one.predict(api_name="/whole_volume")
    own.carry_on()
    assert same()["objects"][0]["is_carried"]
    one.predict(api_name="/add_object")
    own.add_object()
    # corners in the wrong order: the same box
    one.predict(x + 5, y + 6, z, x - 5, y - 6, z, api_name="/box")
    own.box_voxels((x - 5, y - 6, z, x + 5, y + 6, z))
    assert same()["active"] == 1
    one.predict(api_name="/undo")
    own.undo()
    same()
    one.predict(api_name="/redo")
    own.redo()
    same()
    one.predict(0, api_name="/choose_object")
    own.choose(0)
    one.predict(1, 1, z, 0, api_name="/click")
    own.click_voxel((1, 1, z), 0)
    same()
    for plane, index in (("axial", z), ("coronal", 12), ("sagittal", 0), ("sagittal", 999)):
        seen = np.asarray(Image.open(one.predict(plane, index, api_name="/view")))
        own.go_to(plane, index)
        from medsam_adapter.demo.saving import screen_picture

        np.testing.assert_array_equal(seen, np.asarray(screen_picture(own, plane)))
    one.predict(api_name="/clear")
    own.clear()
    same()
    own.close()


def test_the_scores_are_those_of_an_evaluation(come, tmp_path):
    one, (x, y, z) = come(), centre_of()
    sample = blob(0, SHAPE_ZYX, SPACING_MM)
    one.predict([handle_file(write_organ(tmp_path / "organ.nii.gz"))], api_name="/open")
    one.predict(x, y, z, 1, api_name="/click")
    one.predict(api_name="/whole_volume")
    save_nifti(tmp_path / "reference.nii.gz", (sample.labels > 0).astype(np.uint8), sample.scan.affine)
    got = one.predict("first", "second", handle_file(tmp_path / "reference.nii.gz"), api_name="/compare")
    assert "whole scan" in got["scored"] and [each["name"] for each in got["models"]] == ["first", "second"]
    for each in got["models"]:
        one.predict(each["name"], api_name="/model")
        mask = mask_of(one) > 0
        want = mask_metrics(mask, sample.labels > 0, sample.scan.spacing_mm)
        assert each["voxels"] == mask.sum() and 0.3 < each["dice"] < 1
        assert (each["dice"], each["iou"], each["hd95_mm"]) == (want.dice, want.iou, want.hd95_mm)
    got = one.predict("first", PLAIN, None, api_name="/compare")
    assert "dice" not in got["models"][0] and "reference" in got["scored"]


@pytest.mark.parametrize(
    ("endpoint", "values", "says"),
    [
        ("click", (5, 5, 3, 2), "label"), ("click", (5, 5, 3, None), "label"),
        ("click", (5, 5, None, 1), "three numbers"),
        ("click", (500, 5, 3, 1), "outside"), ("click", (5, 5, 99, 1), "outside"), ("click", (5, 5, -1, 1), "outside"),
        ("click", (5, 5, 3, 0), "background"), ("box", (1, 1, 2, 9, 9, 3), "one slice"),
        ("box", (1, 1, 2, 900, 9, 2), "outside"), ("box", (1, 1, 99, 9, 9, 99), "outside"),
        ("box", (1, None, 2, 9, 9, 2), "three numbers"), ("say", ("the spleen",), "text"), ("say", (None,), "text"),
        ("window", (9, 3), "window"), ("window", (None, 3), "window"), ("preset", ("sausage",), "soft-tissue"),
        ("preset", (None,), "preset"), ("model", ("/etc",), "no such model"), ("model", (None,), "no such model"),
        ("choose_object", (7,), "no such object"), ("choose_object", (None,), "index"),
        ("choose_object", (-1,), "object"),
        ("view", ("oblique", 0), "plane"), ("view", ("axial", None), "index"), ("view", (None, 0), "plane"),
        ("open_example", ("my scan",), "phantom"), ("whole_volume", (), "nothing to carry"),
        ("mask", (), "no mask yet"),
        ("compare", (PLAIN, PLAIN, None), "nothing to compare"), ("dicom_seg", (), "DICOM"),
        ("open", (None,), "no file"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_and_changes_nothing(come, tmp_path, endpoint, values, says):
    one = come()
    one.predict([handle_file(write_organ(tmp_path / "organ.nii.gz"))], api_name="/open")
    before = one.predict(api_name="/state")
    with pytest.raises(AppError) as refusal:
        one.predict(*values, api_name=f"/{endpoint}")
    text = str(refusal.value)
    assert says in text and "Traceback" not in text and "upstream" not in text, text
    assert one.predict(api_name="/state") == before
    one.predict(*centre_of(), 1, api_name="/click")


def test_before_anything_is_open(come):
    one = come()
    calls = {"click": (1, 1, 0, 1), "box": (1, 1, 0, 9, 9, 0), "say": ("x",), "window": (1, 2), "preset": ("lung",),
             "choose_object": (0,), "view": ("axial", 0), "compare": (PLAIN, PLAIN, None)}  # fmt: skip
    for name in (
        "whole_volume",
        "undo",
        "redo",
        "clear",
        "add_object",
        "state",
        "mask",
        "session",
        "dicom_seg",
        *calls,
    ):
        with pytest.raises(AppError) as refusal:
            one.predict(*calls.get(name, ()), api_name=f"/{name}")
        assert "no scan is open" in str(refusal.value) or name == "choose_object", (name, str(refusal.value))
        assert "upstream" not in str(refusal.value), name


def test_every_endpoint_says_what_it_is_for(demo):
    listed = httpx.get(f"{demo.address}gradio_api/info").json()["named_endpoints"]
    for name, each in listed.items():
        assert len(each["description"]) > 10, name


# -- what is saved -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", range(len(AXES)))
@pytest.mark.parametrize("model", ["first", PLAIN])
def test_a_saved_session_gives_the_saved_mask(come, adapters, tmp_path, axes, model):
    """Clicks, box, whole volume, correction, a second object; then `msa predict --session` on another day."""
    one, file = come(), write_organ(tmp_path / "organ.nii.gz", AXES[axes])
    one.predict([handle_file(file)], api_name="/open")
    one.predict(model, api_name="/model")
    one.predict(80, 215, api_name="/window")
    i, j, k = centre_of()
    one.predict(i, j, k, 1, api_name="/click")
    one.predict(api_name="/whole_volume")
    one.predict(i + 2, j - 2, k, 0, api_name="/click")
    one.predict(api_name="/add_object")
    one.predict("full range", api_name="/preset")
    one.predict(3, 3, k, 1, api_name="/click")
    saved, session = one.predict(api_name="/mask"), one.predict(api_name="/session")
    out = tmp_path / "again.nii.gz"
    assert run(["predict", "--session", str(session), str(file), "-o", str(out)]) == 0
    got, want = nib.load(out), nib.load(saved)
    np.testing.assert_array_equal(np.asarray(got.dataobj), np.asarray(want.dataobj))
    np.testing.assert_array_equal(got.affine, want.affine)
    np.testing.assert_allclose(want.affine, read_scan(file).affine, atol=1e-6)
    assert set(np.unique(np.asarray(want.dataobj))) == {0, 1, 2}
    assert (
        "organ.nii.gz" in Path(session).read_text()
        and str(tmp_path) not in json.loads(Path(session).read_text())["scan_name"]
    )


def test_a_picture_and_its_session(come, tmp_path):
    one, file = come(), tmp_path / "mole.png"
    from medsam_adapter.demo.examples import lesion_picture

    lesion_picture()[0].resize((96, 80)).save(file)
    assert one.predict([handle_file(file)], api_name="/open")["planes"] == {"picture": 1}
    one.predict(48, 40, 0, 1, api_name="/click")
    saved, session = one.predict(api_name="/mask"), one.predict(api_name="/session")
    mask = np.asarray(Image.open(saved))
    assert mask.shape == (80, 96) and set(np.unique(mask)) == {0, 255}
    out = tmp_path / "again.png"
    assert run(["predict", "--session", str(session), str(file), "-o", str(out)]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(out)), mask)
    assert one.predict(api_name="/state")["objects"][0]["volume_ml"] is None


def test_dicom_in_and_dicom_seg_out(come, tmp_path):
    one, folder = come(), tmp_path / "series"
    sample = blob(0, SHAPE_ZYX, SPACING_MM)
    series(
        folder,
        sample.scan.array.round().astype(np.int16),
        spacing_mm=SPACING_MM,
        name="{}.dcm",
        order=[3, 1, 0, 2, 6, 5, 4],
    )
    one.predict([handle_file(file) for file in sorted(folder.iterdir())], api_name="/open")
    x, y, z = centre_of()
    one.predict(x, y, z, 1, api_name="/click")
    one.predict(api_name="/whole_volume")
    one.predict(api_name="/add_object")
    one.predict(2, 2, z, 1, api_name="/click")
    labels = read_label(one.predict(api_name="/dicom_seg"), like=read_scan(folder))
    np.testing.assert_array_equal(labels, mask_of(one))
    assert set(np.unique(labels)) == {0, 1, 2}
    session, out = one.predict(api_name="/session"), tmp_path / "again.dcm"
    assert run(["predict", "--session", str(session), str(folder), "-o", str(out)]) == 0
    np.testing.assert_array_equal(read_label(out, like=read_scan(folder)), labels)
