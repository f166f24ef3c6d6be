"""Every command and Python block of the pages runs, in a folder with small data and small runs.

A block under `<!-- not run: REASON -->` is not run: the arguments of its `msa` commands are still parsed, and its
Python is compiled and its names looked up. Pages that carry no such comments have their reasons in NOT_RUN.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import shutil
from pathlib import Path

import pytest
import yaml

import doc_commands
import doc_pages
import medsam_adapter
from doc_pages import ROOT, Block
from medsam_adapter.cli.main import run
from medsam_adapter.pretraining.ssl_recipe import SslRecipe
from medsam_adapter.training.recipe import Recipe

NOT_RUN = {
    "README.md": {
        "make": "minutes",
        "msa compare": "starts a process for each method",
        "msa push": "needs the Hub",
        "msa convert": "needs a checkpoint that is not in this repository",
    },
    "hub_configs/README.md": {"msa evaluate outputs/msa-hippocampus sam-tiny": "minutes on volumes of 128 px"},
    "hub_configs/clip-tiny/README.md": {"msa pretrain text": "two minutes"},
    "hub_configs/sam-tiny/README.md": {"msa pretrain promptable": "an hour"},
    "benchmarks/README.md": {"python -m benchmarks": "half an hour"},
    "demos/README.md": {"python": "needs a server that runs"},
}
"""Pages whose text stays free of marks: first words of commands (or python, of its blocks), why they are not run."""

ENDLESS = {"msa demo": "serves until Ctrl-C", "msa quickstart": "four minutes"}
"""Commands that are not run on any page."""

EVERY = doc_pages.with_blocks()
every_page = pytest.mark.parametrize("page", EVERY, ids=lambda page: page.name)
TOLD = {"run": 0, "parsed only": 0}


def reason_of(command: doc_commands.Command) -> str:
    said = " ".join(command.words)
    known = {**ENDLESS, **NOT_RUN.get(command.page, {})}
    return command.reason or next((why for start, why in known.items() if said.startswith(start)), "")


def reason_of_python(block: Block) -> str:
    return block.reason or NOT_RUN.get(block.page, {}).get("python", "")


def all_commands(page: doc_pages.Page) -> list[doc_commands.Command]:
    blocks = [block for block in page.blocks if block.language in ("bash", "console")]
    return [command for block in blocks for command in doc_commands.commands(block)]


# -- commands and blocks ---------------------------------------------------------------------------------------------


@every_page
def test_the_commands_of_a_page_can_be_parsed(page):
    wrong = []
    for command in all_commands(page):
        try:
            doc_commands.check(command)
        except Exception as error:
            wrong.append(f"{command}\n    {error}")
    assert not wrong, "\n".join(wrong)


def test_the_reasons_are_about_commands_that_are_there():
    for name, known in NOT_RUN.items():
        said = [" ".join(command.words) for command in all_commands(doc_pages.Page(ROOT / name))]
        said += [block.language for block in doc_pages.Page(ROOT / name).blocks]
        stale = [start for start in known if not any(words.startswith(start) for words in said)]
        assert not stale, (name, stale)


@every_page
def test_python_that_is_not_run_names_what_exists(page):
    for block in page.blocks:
        if block.language == "python" and reason_of_python(block):
            _look_up(block)


def _look_up(block: Block) -> None:
    """Compiles a block; what it takes from this package, and the methods of its public classes, must exist."""
    tree = ast.parse(block.text, f"{block.page}:{block.line}")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("medsam_adapter"):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), (block.page, block.line, name.name)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in medsam_adapter.__all__:
                found = getattr(medsam_adapter, node.value.id)
                assert hasattr(found, node.attr), (block.page, block.line, node.attr)


@pytest.mark.parametrize("page", doc_pages.pages(), ids=lambda page: page.name)
def test_yaml_blocks_are_yaml_and_recipes_have_known_keys(page):
    for block in page.blocks:
        if block.language != "yaml":
            continue
        values = yaml.safe_load(block.text)
        known = {field.name for kind in (Recipe, SslRecipe) for field in dataclasses.fields(kind)}
        if isinstance(values, dict) and not block.reason:
            assert set(values) <= known, (page.name, block.line, set(values) - known)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    from doc_workspace import write_workspace

    return write_workspace(tmp_path_factory.mktemp("documentation") / "workspace")


@pytest.fixture
def workspace(prepared, tmp_path, monkeypatch):
    """A copy that a page may change; the runs and data behind links are copied, too, this repository's are not."""
    place = tmp_path / "workspace"
    place.mkdir()
    for entry in prepared.iterdir():
        if entry.is_symlink() and ROOT in entry.resolve().parents:
            (place / entry.name).symlink_to(entry.resolve())
        elif entry.is_dir():
            shutil.copytree(entry, place / entry.name)
        else:
            shutil.copy(entry, place / entry.name)
    monkeypatch.chdir(place)
    yield place
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
@every_page
def test_the_blocks_of_a_page_run(page, workspace, capsys):
    """In the order in which they stand; Python blocks share their names, as in a notebook."""
    from accelerate.state import AcceleratorState

    names: dict = {"__name__": "documentation"}
    for block in page.blocks:
        if block.language == "python" and not reason_of_python(block):
            exec(compile(block.text, f"{block.page}:{block.line}", "exec"), names)
            TOLD["run"] += 1
        for command in doc_commands.commands(block) if block.language in ("bash", "console") else ():
            if reason_of(command) or not command.is_msa:
                TOLD["parsed only"] += 1
                continue
            words = doc_commands.small(list(command.words[1:]))
            _make_room(workspace, words)
            AcceleratorState._reset_state(reset_partial_state=True)
            code = run(words)
            assert code == 0, f"{command}\nleft with {code}: {capsys.readouterr().err[-1500:]}"
            TOLD["run"] += 1
    capsys.readouterr()


def _make_room(workspace: Path, words: list[str]) -> None:
    """A training, a conversion or a push makes its folder: what was prepared under that name goes first."""
    if words[0] not in ("train", "pretrain", "convert", "push") and words[:2] != ["data", "phantom"]:
        return
    if "--resume" in words or "--dry-run" in words:
        return
    named = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-o", "--output", "--run.output")]
    if words[0] == "train" and not named:
        file = Path(words[1])
        recipe = yaml.safe_load((file / "recipe.yaml" if file.is_dir() else file).read_text())
        named = [recipe.get("run", {}).get("output", "outputs/run")]
    named += [words[2]] if words[:2] == ["data", "phantom"] else []
    for name in named:
        shutil.rmtree(workspace / name, ignore_errors=True)


@pytest.mark.slow
def test_how_much_was_run(capsys):
    """Alone it counts nothing; after the others more is run than only parsed."""
    assert TOLD["run"] >= TOLD["parsed only"] > 0 or not any(TOLD.values())
    with capsys.disabled():
        print(f"\ndocumentation: {TOLD['run']} blocks and commands run, {TOLD['parsed only']} commands parsed only")
