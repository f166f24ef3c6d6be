"""What `mkdocs build` does beside copying pages: reference tables made from the source, and pages from outside docs/.

README.md, CONTRIBUTING.md and others stay where GitHub shows them; the site gets them as pages with their links turned.
A file that pages link to and that is no page (a recipe, a result) is copied to files/.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

import references  # MkDocs puts the folder of a hook into sys.path while it loads it
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "hub_configs/README.md": "recipes.md",
    "hub_configs/sam-tiny/README.md": "sam_tiny.md",
    "hub_configs/clip-tiny/README.md": "clip_tiny.md",
    "hub_configs/accelerate/README.md": "accelerate.md",
    "demos/README.md": "demo.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""File of the repository -> page of the site."""
REFERENCES = {
    "reference/cli.md": references.command_line,
    "reference/recipe.md": references.recipe_keys,
    "reference/errors.md": references.error_messages,
}
"""Pages whose mark `<!-- made at build time -->` is replaced by what the source says."""
MARK = "<!-- made at build time -->"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files, config):
    """Adds the pages from outside docs/."""
    sys.path.insert(0, str(ROOT / "src"))  # the references describe this tree, whatever is installed
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    sources = [*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages() if file.generated_by is None)]
    linked = {_inside(source, link) for source in sources for _, _, link in _LINK.findall((ROOT / source).read_text())}
    for path in sorted(path for path in linked if path and _is_copied(path)):
        files.append(File.generated(config, f"files/{path}", content=(ROOT / path).read_bytes()))
    return files


def _inside(source: str, link: str) -> str | None:
    """The repository path that a link of the file `source` leads to; None for an address or an anchor."""
    if re.match(r"[a-z]+:|#", link):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link.partition("#")[0]))


def _is_copied(path: str) -> bool:
    return path not in PAGES and not path.startswith(("docs/", "..")) and (ROOT / path).is_file()


def on_page_markdown(markdown, page, config, files):
    """Fills in reference tables and turns links that leave docs/."""
    name = page.file.src_uri
    if name in REFERENCES:
        assert MARK in markdown, name
        markdown = markdown.replace(MARK, REFERENCES[name]())
    source = next((source for source, made in PAGES.items() if made == name), f"docs/{name}")
    return _LINK.sub(lambda match: _turned(match, source, name), markdown)


def _turned(match: re.Match, source: str, page: str) -> str:
    """A link of the repository file `source` as a link of the site's `page`."""
    image, text, link = match.groups()
    inside = _inside(source, link)
    if inside is None:
        return match[0]
    _, hash_mark, anchor = link.partition("#")
    if inside in PAGES:
        place = PAGES[inside]
    elif inside.startswith("docs/"):
        place = inside.removeprefix("docs/")
    elif f"{inside}/README.md" in PAGES:
        place = PAGES[f"{inside}/README.md"]
    elif _is_copied(inside):
        place = f"files/{inside}"
    else:
        return text if (ROOT / inside).is_dir() else match[0]  # no link at all, but code that looks like one
    return f"{image}[{text}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{hash_mark}{anchor})"
