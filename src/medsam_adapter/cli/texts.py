"""`msa texts list | show | check | generate`: the bank of sentences for text prompts, and adding to it.

Only typer and the standard library are imported here, so that `msa --help` answers at once.
"""

from __future__ import annotations

import difflib
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

if TYPE_CHECKING:
    from medsam_adapter.prompts.text_bank import TargetTexts, TextBank, UnionTexts

app = typer.Typer(help="Look at, check and extend the texts for text prompts.", no_args_is_help=True)

HUGGING_FACE = ("huggingface.co", "hf.co", "hf.space", "huggingface.cloud")
NUM_SHOWN = 5

Bank = Annotated[Path | None, typer.Option(help="A YAML file or a folder of them, in addition to the shipped texts.")]


@app.callback()
def texts() -> None:
    """Look at, check and extend the texts for text prompts."""


@app.command("list")
def list_command(bank: Bank = None) -> None:
    """The targets that the bank has texts for.

    Example: msa texts list
    """
    from rich.console import Console
    from rich.table import Table

    from medsam_adapter.prompts.text_bank import TextBank

    loaded = TextBank.load(bank)
    table = Table()
    for heading in ("target", "region", "data", "names"):
        table.add_column(heading, overflow="fold")
    for heading in ("train", "held-out"):
        table.add_column(heading, justify="right")
    for name, target in loaded.targets.items():
        cells = (name, target.region, ", ".join(target.data), ", ".join(target.names[1:]))
        table.add_row(*cells, str(len(target.train)), str(len(target.held_out)))
    # Names are the user's too: [x] in them is no markup.
    Console(markup=False, emoji=False, highlight=False).print(table)
    typer.echo(f"{_counts(loaded)}\nnext: msa texts show TARGET")


@app.command("show")
def show_command(
    target: Annotated[str, typer.Argument(help="A name or synonym; case, _ and - do not matter.")],
    bank: Bank = None,
) -> None:
    """All sentences about one target, those of its unions included.

    Example: msa texts show spleen
    """
    from medsam_adapter.errors import PromptError
    from medsam_adapter.prompts.text_bank import TextBank

    loaded = TextBank.load(bank)
    standard = loaded.find(target)
    if standard is None:
        names = [name for texts in loaded.targets.values() for name in texts.names]
        near = difflib.get_close_matches(target.lower(), names, 1, 0.5)
        raise PromptError(
            "the bank has no texts about this target",
            expected=", ".join(loaded.targets),
            found=target,
            hint=f"did you mean {near[0]!r}?" if near else "msa texts generate makes some",
        )
    found = loaded.targets[standard]
    typer.echo(f"{standard}\n  names: {', '.join(found.names)}\n  region: {found.region}")
    typer.echo(f"  data: {', '.join(found.data) or '-'}")
    unions = [union for union in loaded.unions if standard in union.targets]
    shown: list[tuple[str, TargetTexts | UnionTexts]] = [("", found)]
    shown += [(" + ".join(union.targets), union) for union in unions]
    for title, texts in shown:
        if title:
            typer.echo(f"\n{title}")
        for part, sentences in (("train", texts.train), ("held out", texts.held_out)):
            typer.echo("\n".join([f"  {part}:", *(f"    {sentence}" for sentence in sentences)]))


@app.command("check")
def check_command(path: Annotated[Path, typer.Argument(help="A YAML file or a folder of them.")]) -> None:
    """Check texts of one's own together with the shipped ones. Exit code 2 if they break a rule.

    Example: msa texts check my_texts.yaml
    """
    from medsam_adapter.prompts.text_bank import check_bank

    loaded, findings = check_bank(path)
    for finding in findings:
        typer.secho(f"error: {finding}", err=True, fg=typer.colors.RED)
    if findings:
        typer.secho(f"{path}: {len(findings)} findings", err=True, fg=typer.colors.RED)
        raise typer.Exit(2)
    typer.echo(f"{path}: no findings\nwith the shipped texts: {_counts(loaded)}")


@app.command("generate")
def generate_command(
    target: Annotated[str, typer.Option(help='What the texts are about, such as "optic disc".')],
    model: Annotated[str | None, typer.Option(help="Chat model that runs here: a Hub id or a folder.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server.")] = None,
    endpoint_model: Annotated[str | None, typer.Option(help="Name of the model on that server.")] = None,
    name: Annotated[list[str] | None, typer.Option(help="A synonym of the target; may be repeated.")] = None,
    count: Annotated[int, typer.Option(min=2, help="So many sentences.")] = 12,
    region: Annotated[str | None, typer.Option(help="Body region of a target that the bank does not have.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the language model.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Higher is more varied.")] = 0.8,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="YAML file to make or add to.")] = None,
) -> None:
    """Let a language model write sentences; those that break the bank's rules are left out.

    The key of a server is read from OPENAI_API_KEY, that of a Hugging Face host from HF_TOKEN.

    Example: msa texts generate --target spleen --model Qwen/Qwen2.5-1.5B-Instruct -o my_texts.yaml
    """
    from medsam_adapter.errors import PromptError
    from medsam_adapter.prompts.text_bank import TextBank
    from medsam_adapter.prompts.text_generation import append_texts, endpoint_chat, generate_texts, local_chat

    if (model is None) == (endpoint is None):
        raise PromptError(
            "a language model is needed",
            expected="--model ID or --endpoint URL",
            found="neither" if model is None else "both",
        )
    bank = TextBank.load(output if output and output.exists() else None)
    if output and bank.find(target) is None and region is None and not output.exists():
        raise PromptError(
            f"the bank does not know {target!r}", expected="--region REGION, such as abdomen", found="no region"
        )
    if model is not None:
        chat = local_chat(model, seed=seed, temperature=temperature)
    else:
        assert endpoint is not None
        chat = endpoint_chat(endpoint, endpoint_model, _api_key(endpoint), seed=seed, temperature=temperature)
    accepted, rejected = generate_texts(target, name or [], chat, count, bank=bank, region=region)
    for sentence, reason in rejected[:NUM_SHOWN]:
        typer.secho(f"left out, {reason}: {sentence}", err=True, fg=typer.colors.YELLOW)
    if len(rejected) > NUM_SHOWN:
        typer.secho(f"and {len(rejected) - NUM_SHOWN} more left out", err=True, fg=typer.colors.YELLOW)
    if not accepted:
        raise PromptError(
            "the language model wrote no usable sentence",
            expected=f"{count} sentences with the name {target!r}",
            found=f"{len(rejected)} sentences, all left out" if rejected else "no sentence",
            hint="take a larger model, or add synonyms with --name",
        )
    typer.echo("\n".join(accepted))
    if len(accepted) < count:
        typer.secho(f"only {len(accepted)} of {count} sentences are usable", err=True, fg=typer.colors.YELLOW)
    if output:
        append_texts(output, target, name or [], region, accepted)
        typer.echo(f"{output}: {len(accepted)} sentences added, a third of them held out; read them before you train")
        typer.echo(f"next: msa texts show {shlex.quote(target)} --bank {shlex.quote(str(output))}")


def _counts(bank: TextBank) -> str:
    texts = [*bank.targets.values(), *bank.unions]
    num_train, num_held_out = (sum(len(getattr(t, part)) for t in texts) for part in ("train", "held_out"))
    return (
        f"{len(bank.targets)} targets and {len(bank.unions)} unions,"
        f" {num_train} sentences to train on and {num_held_out} held out"
    )


def _api_key(url: str) -> str | None:
    """The key that belongs to the server; one company's key is not sent to the other."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""
    is_hugging_face = any(host == name or host.endswith(f".{name}") for name in HUGGING_FACE)
    return os.environ.get("HF_TOKEN" if is_hugging_face else "OPENAI_API_KEY") or None
