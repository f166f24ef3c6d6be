"""What the pages say besides code: no link is dead, options and recipe keys in backticks exist, messages are quoted as
printed, and the site builds.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import subprocess
import sys
from urllib.parse import unquote

import pytest

import doc_pages
import medsam_adapter
from doc_pages import ROOT
from medsam_adapter.cli.main import app
from medsam_adapter.pretraining.ssl_recipe import SslRecipe
from medsam_adapter.training.recipe import Recipe

every_page = pytest.mark.parametrize("page", doc_pages.pages(), ids=lambda page: page.name)


@every_page
def test_no_link_is_dead(page):
    dead = []
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = unquote(link).partition("#")
        path = (page.path.parent / target) if target else page.path
        if not path.exists():
            dead.append(link)
        elif anchor and path.suffix == ".md" and anchor not in doc_pages.Page(path.resolve()).anchors:
            dead.append(link)
    assert not dead, dead


SECTIONS = {field.name: field.default_factory for field in dataclasses.fields(Recipe) if field.name != "name"}


def recipe_keys() -> set[str]:
    """section.key of training recipes, and the keys of pre-training recipes."""
    keys = {f"{name}.{key.name}" for name, kind in SECTIONS.items() for key in dataclasses.fields(kind)}
    keys |= {f"model.adapter.{key.name}" for key in dataclasses.fields(medsam_adapter.MSAAdapterConfig)}
    weights = next(field for field in dataclasses.fields(SslRecipe) if field.name == "weights").default_factory
    return keys | {f"weights.{key.name}" for key in dataclasses.fields(weights)}


def msa_options() -> set[str]:
    import typer

    found: set[str] = {"--help", "--version"}

    def walk(command) -> None:
        for parameter in command.params:
            found.update(parameter.opts)
        for part in getattr(command, "commands", {}).values():
            walk(part)

    walk(typer.main.get_command(app))
    return found


OTHERS = {"--section.key", "--config_file", "--num_processes", "--machine_rank", "--main_process_ip"}
"""A stand-in, and options of other programs that the pages speak of."""


@every_page
def test_options_and_keys_in_backticks_exist(page):
    keys, options, wrong = recipe_keys(), msa_options() | OTHERS, []
    ssl = {field.name for field in dataclasses.fields(SslRecipe)}
    benchmarks = "".join(file.read_text() for file in (ROOT / "benchmarks").glob("*.py"))
    for code in page.code_words:
        for option in re.findall(r"(?<![\w-])(--[a-zA-Z][\w.-]*|-[a-zA-Z]\b(?!-))", code):
            name = option.lstrip("-").replace("-", "_") if "." not in option else option.lstrip("-")
            is_known = option in options or name in keys or name in ssl or f'"{option}"' in benchmarks
            if not is_known and not name.startswith("model.lora."):
                wrong.append(option)
        for key in re.findall(rf"(?<![\w.\-/])((?:{'|'.join(SECTIONS)})\.[a-z_0-9.]+)(?![\w(])", code):
            key = key.rstrip(".")
            is_module = (ROOT / f"src/medsam_adapter/{key.replace('.', '/')}.py").is_file()
            is_file = key.endswith((".json", ".jsonl", ".yaml", ".safetensors", ".pt", ".py", ".csv"))
            if key not in keys and not is_module and not is_file and not key.startswith("model.lora."):
                wrong.append(key)
    assert not wrong, wrong


def quoted_errors() -> list[str]:
    """The messages that the troubleshooting page has as headings."""
    page = doc_pages.Page(ROOT / "docs/troubleshooting.md")
    return re.findall(r"^### `(.+)`$", page.text, re.M)


def source_texts() -> set[str]:
    """All string constants of the package, what an f-string puts in as "…"."""
    found = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_troubleshooting_quotes_messages_as_the_code_prints_them():
    quoted = quoted_errors()
    assert len(quoted) >= 25 and len(set(quoted)) == len(quoted)
    strange = set(quoted) - source_texts()
    assert not strange, strange


# -- the site --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def references():
    """docs/hooks/references.py as a module; it needs none of MkDocs."""
    spec = importlib.util.spec_from_file_location("references", ROOT / "docs/hooks/references.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_has_every_page_of_docs():
    """mkdocs.yml names each page of docs/, and none that is neither there nor made at build time."""
    names = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text()))
    there = {file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").rglob("*.md")}
    made = set(re.findall(r'": "([\w/-]+\.md)"', (ROOT / "docs/hooks/pages.py").read_text()))
    assert there | made == names, f"to be added to, or taken from, nav in mkdocs.yml: {(there | made) ^ names}"


def test_the_references_say_all_that_there_is(references):
    commands, keys, errors = references.command_line(), references.recipe_keys(), references.error_messages()
    missing = [option for option in msa_options() - {"--help"} if option not in commands]
    assert not missing and "## `msa pretrain ssl`" in commands and "| `RECIPE` |" in commands
    assert not [key for key in recipe_keys() if f"`{key}`" not in keys and not key.startswith("model.adapter.")]
    assert all(f"`model.adapter.{key}`" in keys for key in ("use_depth", "prompt_fusion", "num_slices"))
    assert "choose one of" not in keys and "| `optim.epochs` | Passes over the training cases. | `20` |" in keys
    assert "| the recipe names no data | add --data.path FOLDER |" in errors and errors.count("\n| ") > 250


def test_the_figure_is_that_of_its_script(tmp_path):
    """msa.svg was drawn by the script as it stands."""
    copy = tmp_path / "draw_msa.py"
    copy.write_text((ROOT / "docs/figures/draw_msa.py").read_text())
    subprocess.run([sys.executable, str(copy)], check=True)
    assert (tmp_path / "msa.svg").read_text() == (ROOT / "docs/figures/msa.svg").read_text()


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed: make docs")
    pytest.importorskip("material"), pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "site/reference/api.html").read_text()
    assert "MSAPredictor" in text and "made at build time" not in (tmp_path / "site/reference/cli.html").read_text()
