"""The pictures of README.md and demos/README.md: `make screenshots` makes them anew with a trained adapter.

Without MSA_SCREENSHOTS they go to a temporary folder: the test then says that they can be made.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsam_adapter.data.nifti import save_nifti
from medsam_adapter.data.phantom import make_phantom
from medsam_adapter.prompts.clicks import interior_point

pytestmark = pytest.mark.slow
LIVER, LEFT_KIDNEY = 1, 3
SEED = 900_007  # a phantom that the adapter of `make screenshots` has not been trained on


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    wanted = os.environ.get("MSA_SCREENSHOTS")
    made = Path(wanted) if wanted else tmp_path_factory.mktemp("screenshots")
    made.mkdir(parents=True, exist_ok=True)
    return made


def is_a_picture(file: Path) -> bool:
    """Not blank: many colours."""
    shot = np.asarray(Image.open(file).convert("RGB"))
    return len(np.unique(shot.reshape(-1, 3), axis=0)) > 200


def click_organ(here, sample, organ: int) -> None:
    depth, rows, columns = sample.scan.shape_zyx
    here.click("main", *interior_point(sample.labels[depth // 2] == organ), columns, rows)


def test_screenshots_of_a_volume(desk, folder, tmp_path):
    sample = make_phantom(SEED)
    scan, labels = tmp_path / "phantom_ct.nii.gz", tmp_path / "labels.nii.gz"
    save_nifti(scan, sample.scan.array, sample.scan.affine)
    save_nifti(labels, sample.labels, sample.scan.affine)
    here = desk(color_scheme="dark", viewport={"width": 1440, "height": 980})
    here.open_file(scan)
    here.said("Taken for")
    click_organ(here, sample, LIVER)
    here.press("msa-carry", "Correct it on any slice")
    here.page.fill("#msa-name input, #msa-name textarea", "liver")
    here.page.keyboard.press("Enter")
    here.page.wait_for_function("document.querySelector('#msa-table').innerText.includes('liver')")
    here.press("msa-add", "A new object")
    click_organ(here, sample, LEFT_KIDNEY)
    here.press("msa-carry", "Correct it on any slice")
    here.page.fill("#msa-name input, #msa-name textarea", "left kidney")
    here.page.keyboard.press("Enter")
    here.page.wait_for_function("document.querySelector('#msa-table').innerText.includes('left kidney')")
    here.page.wait_for_timeout(500)
    here.page.evaluate("window.scrollTo(0, 0)")
    here.page.screenshot(path=folder / "demo_volume.png")

    here.page.get_by_role("tab", name="3-D").click()
    here.page.click("#msa-show-solid")
    here.page.wait_for_function("window.msaNiivue && window.msaNiivue.meshes.length === 2", timeout=60_000)
    here.page.wait_for_timeout(2000)
    here.page.locator("#msa-solid").screenshot(path=folder / "demo_3d.png")

    here.page.get_by_role("tab", name="Compare").click()
    here.page.set_input_files("#msa-reference input[type=file]", str(labels))
    here.said("Reference taken")
    here.press("msa-compare", "Compared")
    here.page.wait_for_timeout(500)
    here.page.get_by_role("tabpanel").filter(visible=True).screenshot(path=folder / "demo_compare.png")
    for name in ("demo_volume.png", "demo_3d.png", "demo_compare.png"):
        assert is_a_picture(folder / name)


def test_screenshot_of_a_picture(desk, folder):
    here = desk(color_scheme="dark", viewport={"width": 1440, "height": 900})
    here.open_example("phantom skin lesion")
    here.choose("msa-model", "SAM without adapter")
    here.said("not adapted")
    here.click("main", 145, 165, 320, 320)
    here.new_voxels(0)
    here.page.wait_for_timeout(500)
    here.page.screenshot(path=folder / "demo_picture.png")
    assert is_a_picture(folder / "demo_picture.png")
