"""demos/ is a complete Space: its requirements are the library's, and publishing puts the library's code beside it."""

from __future__ import annotations

import configparser
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DEMOS = ROOT / "demos"


@pytest.fixture(scope="module")
def app():
    pytest.importorskip("gradio")
    spec = importlib.util.spec_from_file_location("space_app", DEMOS / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_requires_what_the_library_requires():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    wanted = "\n".join([setup["options"]["install_requires"], extras["demo"], extras["formats"]]).split()
    lines = (DEMOS / "requirements.txt").read_text().splitlines()
    assert sorted(line for line in lines if not line.startswith(("#", "--"))) == sorted(set(wanted))


def test_its_header_is_a_gradio_space_of_the_version_that_is_tested():
    header = yaml.safe_load((DEMOS / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert header["sdk"] == "gradio" and header["app_file"] == "app.py"
    pinned = re.search(r"^gradio==(.+)$", (ROOT / "constraints.txt").read_text(), re.M).group(1)
    assert header["sdk_version"] == pinned


@pytest.mark.parametrize("models, expected", [("[]", ["sam-tiny"]), ("[org/a, org/b]", ["org/a", "org/b"])])
def test_the_header_names_the_models(app, tmp_path, models, expected):
    readme = tmp_path / "README.md"
    readme.write_text(f"---\nsdk: gradio\nmodels: {models}\n---\ntext --- with dashes\n", encoding="utf-8")
    assert app.models_of(readme) == expected


def test_publishing_puts_the_library_beside_it(tmp_path, monkeypatch):
    from medsam_adapter.hub import publish

    seen = {}

    def commit(folder, repo_id, **settings):
        seen["files"] = {file.relative_to(folder).as_posix() for file in Path(folder).rglob("*") if file.is_file()}
        seen["header"] = yaml.safe_load((Path(folder) / "README.md").read_text(encoding="utf-8").split("---")[1])
        return "address"

    monkeypatch.setattr(publish, "commit_folder", commit)
    assert publish.push_space(DEMOS, "org/demo", "org/msa-liver") == "address"
    assert seen["header"]["models"] == ["org/msa-liver"]
    assert {"app.py", "requirements.txt", "medsam_adapter/__init__.py", "medsam_adapter/demo/static/viewer.js"} <= (
        seen["files"]
    )
    assert "medsam_adapter/assets/sam-tiny/model.safetensors" in seen["files"]
    assert not any("__pycache__" in file for file in seen["files"])
