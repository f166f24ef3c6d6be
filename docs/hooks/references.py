"""The reference tables: the command line, the keys of recipes and the error messages, as Markdown from the source."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
FAMILY = (
    "MSAError", "MSAInputError", "DataError", "PromptError", "RecipeError", "CheckpointError", "MergeNotSupportedError",
    "OutputError", "Interrupted",
)  # fmt: skip
"""What `errors.py` defines."""


def command_line() -> str:
    """Each command of `msa`: usage, help, arguments and options, as typer knows them."""
    import typer

    from medsam_adapter.cli.main import app

    parts: list[str] = []

    def describe(command, name: str) -> None:
        parts.append(f"## `{name}`\n")
        parts.append(f"{(command.help or '').strip()}\n")
        rows = [_parameter(parameter) for parameter in command.params if "--help" not in parameter.opts]
        if rows:
            parts.append("| | | default |\n|---|---|---|\n" + "\n".join(rows) + "\n")
        for part, child in getattr(command, "commands", {}).items():
            describe(child, f"{name} {part}")

    describe(typer.main.get_command(app), "msa")
    return "\n".join(parts)


def _parameter(parameter) -> str:
    is_argument = parameter.param_type_name == "argument"
    name = (parameter.metavar or parameter.name).upper() if is_argument else ", ".join(reversed(parameter.opts))
    default = parameter.default
    said = (
        "required"
        if parameter.required
        else ""
        if default in (None, False, (), []) or callable(default)
        else f"`{default}`"
    )
    return f"| `{_cell(name)}` | {_cell(getattr(parameter, 'help', '') or '')} | {said} |"


def recipe_keys() -> str:
    """Each section of a recipe, then the recipe of pre-training and the fields of `MSAAdapterConfig`."""
    parts = []
    recipe = _tree("medsam_adapter/training/recipe.py")
    for section in ("model", "data", "prompts", "text", "loss", "optim", "run"):
        name = {"prompts": "Prompt"}.get(section, section.capitalize()) + "Section"
        parts.append(f"## `{section}`\n\n" + _fields(_class(recipe, name), f"{section}."))
    ssl = _tree("medsam_adapter/pretraining/ssl_recipe.py")
    parts.append("## Pre-training: `msa pretrain ssl`\n\n" + _fields(_class(ssl, "SslRecipe"), ""))
    parts.append("### `weights`\n\n" + _fields(_class(ssl, "ObjectiveWeights"), "weights."))
    parts.append("## Adapters: `model.adapter`\n\n" + _adapter_fields())
    return "\n".join(parts)


def _fields(node: ast.ClassDef, prefix: str) -> str:
    """A table of a dataclass whose help is the text under each field."""
    rows = []
    for field, below in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            default = ast.unparse(field.value) if field.value else ""
            default = "" if default.startswith("field(") else default
            rows.append(f"| `{prefix}{field.target.id}` | {_cell(below.value.value)} | {_code(default)} |")
    return "| key | | default |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _adapter_fields() -> str:
    from medsam_adapter.adapters.config import MSAAdapterConfig

    rows = [
        f"| `model.adapter.{field.name}` | {_cell(field.metadata['help'])} | {_code(str(field.default))} |"
        for field in dataclasses.fields(MSAAdapterConfig)
        if "help" in field.metadata and field.name in MSAAdapterConfig.__annotations__
    ]
    return "| key | | default |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def error_messages() -> str:
    """Every message of the family in `errors.py`, by module, with what to do next where that is fixed text."""
    parts = []
    for file in sorted(SOURCE.rglob("*.py")):
        rows = [_message(node) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        rows = sorted({row for row in rows if row})
        if rows:
            name = file.relative_to(SOURCE / "medsam_adapter").as_posix()
            parts.append(f"## `{name}`\n\n| message | next |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _message(call: ast.Call) -> str:
    name = getattr(call.func, "id", "")
    if name not in FAMILY or not call.args:
        return ""
    text = _fixed(call.args[0])
    hint = next((_fixed(keyword.value) for keyword in call.keywords if keyword.arg == "hint"), "")
    return f"| {_cell(text)} | {_cell(hint)} |" if text.strip(" …") else ""


def _fixed(node: ast.expr) -> str:
    """The text of a string, with … for what is put in at run time."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.IfExp):
        return " / ".join(text for text in (_fixed(node.body), _fixed(node.orelse)) if text)
    return ""


def _tree(path: str) -> ast.Module:
    return ast.parse((SOURCE / path).read_text())


def _class(tree: ast.Module, name: str) -> ast.ClassDef:
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("{", "&#123;")


def _code(default: str) -> str:
    """A default of Python as YAML has it: no quotes, true and false."""
    try:
        value = ast.literal_eval(default)
    except (ValueError, SyntaxError):
        value = default
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`" if value not in ("", None) else ""
