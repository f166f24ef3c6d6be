"""One predictor for all tests of the demo; it keeps no scan."""

from __future__ import annotations

import importlib.util

import pytest

from demo_setup import adapted, workspace, write_organ
from medsam_adapter.inference.predictor import MSAPredictor

# These import the viewer, which is Gradio's.
collect_ignore = (
    [] if importlib.util.find_spec("gradio") else ["test_saving.py", "test_comparing.py", "test_volume_viewer.py"]
)


@pytest.fixture(scope="session")
def predictor(randomise, quiet):
    return MSAPredictor(adapted(randomise), device="cpu")


@pytest.fixture
def space(predictor):
    """An empty workspace."""
    made = workspace(predictor)
    yield made
    made.close()


@pytest.fixture
def opened(space, tmp_path):
    """A workspace with `demo_setup.organ` open."""
    space.open([write_organ(tmp_path / "organ.nii.gz")])
    return space
