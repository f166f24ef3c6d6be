"""A demo that is served, and a real browser (Debian's Chromium, driven by Playwright) that looks at it."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), "")
# Without these Chromium asks for hosts outside, and for a GPU.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip
WAIT_MS = 60_000


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def adapter(quiet, randomise, tmp_path_factory):
    """Folder of an adapter for sam-tiny: a trained one where MSA_DEMO_ADAPTER names it, else small random weights."""
    if os.environ.get("MSA_DEMO_ADAPTER"):
        return Path(os.environ["MSA_DEMO_ADAPTER"])
    from medsam_adapter import MSAAdapterConfig, MSAModel, MSAProcessor

    folder = tmp_path_factory.mktemp("adapters") / "msa-organs"
    model = MSAModel.from_base("sam-tiny", id2label={0: "background", 1: "liver", 2: "spleen"})
    model.add_adapter(MSAAdapterConfig(bottleneck_ratio=0.25))
    randomise(model, std=0.05).save_pretrained(folder)
    MSAProcessor.from_model(model, intensity="ct:soft-tissue").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def demo(adapter):
    """The address of a running demo: sam-tiny and one adapter."""
    pytest.importorskip("gradio", reason="no Gradio: pip install 'medsam-adapter[demo]'")
    from medsam_adapter.demo.server import Demo
    from medsam_adapter.inference.predictor import MSAPredictor

    with Demo(MSAPredictor.from_pretrained("sam-tiny"), "sam-tiny", [str(adapter)]) as served:
        yield served.launch(server_name="127.0.0.1")


@dataclass
class Desk:
    """A page of the demo, and what one does on it."""

    page: Any
    complaints: list[str]

    def said(self, text: str, timeout: int = WAIT_MS) -> str:
        """Wait until the status line says something."""
        self.page.wait_for_function(
            "text => document.querySelector('#msa-status .msa-status').innerText.includes(text)", arg=text,
            timeout=timeout,
        )  # fmt: skip
        return self.page.inner_text("#msa-status .msa-status")  # without what Gradio says of its queue

    def open_example(self, name: str) -> None:
        self.page.click("#msa-example input")
        self.page.get_by_role("option", name=name, exact=True).click()
        self.said("Taken for")
        self.page.wait_for_selector("#msa-view-main img[src^='data:']", timeout=WAIT_MS)

    def open_file(self, *files: Path) -> None:
        self.page.set_input_files("#msa-file input[type=file]", [str(file) for file in files])

    def choose(self, menu: str, option: str) -> None:
        self.page.click(f"#{menu} input")
        self.page.get_by_role("option", name=option, exact=True).click()

    def picture(self, view: str = "main") -> np.ndarray:
        """(H, W, 3) uint8: what a viewer shows, as the server composed it."""
        address = self.page.get_attribute(f"#msa-view-{view} img", "src")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))

    def changed(self, view: str, before: np.ndarray) -> np.ndarray:
        """Wait until a viewer shows another picture."""
        for _ in range(300):
            now = self.picture(view)
            if now.shape != before.shape or (now != before).any():
                return now
            self.page.wait_for_timeout(100)
        raise AssertionError(f"the view {view} did not change")

    def at(self, view: str, x: float, y: float, columns: int, rows: int) -> tuple[float, float]:
        """Where a pixel of the slice is on the screen; buttons below may have scrolled it away."""
        self.page.locator(f"#msa-view-{view} img").evaluate("image => image.scrollIntoView({block: 'center'})")
        frame = self.page.locator(f"#msa-view-{view} img").bounding_box()
        return frame["x"] + (x + 0.5) / columns * frame["width"], frame["y"] + (y + 0.5) / rows * frame["height"]

    def click(self, view: str, x: float, y: float, columns: int, rows: int, **settings) -> str:
        """Click a pixel of the slice and wait for the answer."""
        self._forget_status()
        self.page.mouse.click(*self.at(view, x, y, columns, rows), **settings)
        return self.said(": ")

    def drag(self, view: str, box: tuple[float, float, float, float], columns: int, rows: int) -> str:
        """Drag a box over pixels of the slice and wait for the answer."""
        self._forget_status()
        self.page.mouse.move(*self.at(view, *box[:2], columns, rows))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(view, *box[2:], columns, rows), steps=4)
        self.page.mouse.up()
        return self.said(": ")

    def press(self, button: str, until: str) -> str:
        self._forget_status()
        self.page.click(f"#{button}")
        return self.said(until)

    def voxels(self) -> list[int]:
        """Of each object, as the table says."""
        rows = self.page.locator("#msa-table tr").all_inner_texts()[1:]
        return [int(re.sub(r"\D", "", row.split("\t")[-1])) for row in rows]

    def new_voxels(self, before: int, number: int = 0) -> int:
        """Wait until the table says another count of an object."""
        for _ in range(100):
            if self.voxels()[number] != before:
                break
            self.page.wait_for_timeout(100)
        assert self.voxels()[number] != before, "the mask did not change"
        return self.voxels()[number]

    def save(self, button: str, folder: Path) -> Path:
        """Press a button of the Save tab, and download the file."""
        self.page.get_by_role("tab", name="Save").click()
        self.press(button, "Saved")
        name = self.page.inner_text("#msa-status .msa-status").removeprefix("Saved ").strip(" .")
        link = self.page.locator("#msa-saved a[download]", has=self.page.locator("xpath=.")).first
        self.page.wait_for_function(
            "name => [...document.querySelectorAll('#msa-saved a[download]')].some(a => a.download === name)", arg=name
        )
        with self.page.expect_download() as download:
            link.click()
        file = folder / name
        download.value.save_as(file)
        return file

    def _forget_status(self) -> None:
        self.page.evaluate("document.querySelector('#msa-status .msa-status').innerText = ''")


@pytest.fixture
def desk(browser, demo):
    """A fresh page; its scripts must not complain."""
    pages = []

    def sit_down(**settings) -> Desk:
        page = browser.new_page(**{"viewport": {"width": 1500, "height": 1000}, **settings})
        made = Desk(page, [])
        page.on("pageerror", lambda error: made.complaints.append(str(error)))
        page.goto(demo)
        page.wait_for_selector("#msa-view-main .msa-stage", timeout=WAIT_MS)
        pages.append(made)
        return made

    yield sit_down
    for made in pages:
        made.page.close()
        assert not made.complaints
