"""`msa push`: a run folder becomes a repo, in one commit, with a card made from the run.

What goes up is chosen by name: weights, configurations, recipe, split, metrics, results, card. Checkpoints, optimizer
state, pictures of patients and whatever else lies in the folder stay where they are.
"""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

from medsam_adapter.adapters.files import WEIGHTS_NAME, read_adapter_config
from medsam_adapter.errors import CheckpointError
from medsam_adapter.evaluation.results import PROMPTS_JSON, RESULTS_CSV, RESULTS_JSON, EvaluationResult
from medsam_adapter.hub.card import card_text
from medsam_adapter.hub.card_sections import Publication
from medsam_adapter.hub.commit import commit_folder
from medsam_adapter.hub.licences import base_licence
from medsam_adapter.hub.private_words import recipe_without_paths, refuse_private_words, without_paths
from medsam_adapter.hub.push_model import MODEL_FILES, refuse_local_names, refuse_local_text_model
from medsam_adapter.hub.run_facts import RunFacts
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.writing import naming_write_errors, partial_name

PLAIN_FILES = ("preprocessor_config.json", "versions.json", "data.json", "split.json", "metrics.jsonl", "best.json")
EVALUATION = "evaluation/"
_PACKAGE = Path(__file__).parents[1]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class PushOptions:
    """How a run is published.

    Attributes:
        repo_id: ORG/NAME.
        full: the base's weights, too.
        licence: under which it is published; the base's if None.
        base: the repo of the backbone, where the run knows it as a folder.
        dtype: fp32, bf16 or fp16 for the adapter's weights; None leaves them.
        results: folders of evaluations, in addition to those in the run folder.
        force: publish although there are no scores, or an unknown licence, or scores of other weights.
    """

    repo_id: str
    full: bool = False
    licence: str | None = None
    base: str | None = None
    dtype: str | None = None
    results: Sequence[Path] = field(default_factory=tuple)
    force: bool = False


@dataclass(frozen=True)
class Staged:
    """A folder that is ready to be published.

    Attributes:
        files: {path in the repo: bytes}.
        notes: what a person should know before it is public, a sentence each.
    """

    files: dict[str, int]
    notes: list[str]


def push_run(
    run: Path, options: PushOptions, *, private: bool = False, token: str | bool | None = None
) -> tuple[str, Staged]:
    """Publish a run. A failed upload leaves nothing half published and can be repeated.

    Returns:
        the address of the commit, and what it holds.

    Raises:
        CheckpointError: a run that is not finished or not measured, a licence that nobody knows, a base that others do
            not have, or what the Hub refuses.
    """
    with tempfile.TemporaryDirectory() as temporary:
        staged = _stage(run, Path(temporary), options, token)
        address = commit_folder(
            Path(temporary), options.repo_id, message=f"Publish {RunFacts.read(run).name}",
            private=private or None, token=token, replaces=(*MODEL_FILES, *PLAIN_FILES, EVALUATION),
        )  # fmt: skip
    return address, staged


def stage_run(run: Path, output: Path, options: PushOptions, *, token: str | bool | None = None) -> Staged:
    """Write what would be published into a folder that is new or empty, all of it or nothing.

    Raises:
        CheckpointError: as `push_run`.
        OutputError: a full disk, or a place that cannot be written to.
    """
    target = output.resolve()
    partial = partial_name(target)
    with tempfile.TemporaryDirectory() as temporary:
        staged = _stage(run, Path(temporary), options, token)
        with naming_write_errors(output):
            try:
                for name in staged.files:
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(Path(temporary) / name, partial / name)
                if target.is_dir():
                    target.rmdir()  # empty; renaming onto a folder fails on some systems
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return staged


def _stage(run: Path, output: Path, options: PushOptions, token: str | bool | None) -> Staged:
    facts = RunFacts.read(run)
    results, notes = _results(facts, options)
    base = _published_base(facts, options)
    known = base_licence(facts.trained.base, token) or base_licence(base, token)
    if not (known or options.licence or options.force):
        raise CheckpointError(
            f"the licence of its base, {base}, is not known", file=run, expected="a base whose card states a licence",
            found="none, or no network to look", hint='find out and say it: --licence "apache-2.0", or what it is',
        )  # fmt: skip
    if not (known or options.licence):
        notes.append(f"the licence of {base} is not known, and the card says so")
    _write_model(facts, output, base, options)
    size_mb = sum(file.stat().st_size for file in output.glob("*.safetensors")) / 1e6
    for name in PLAIN_FILES:
        if (facts.folder / name).is_file():
            _copy_clean(facts.folder / name, output / name)
    (output / "recipe.yaml").write_text(
        yaml.safe_dump(
            recipe_without_paths(facts.recipe, facts.started_from or base), sort_keys=False, allow_unicode=True
        ),
        encoding="utf-8",
    )
    for folder, result in results:
        _write_result(folder, result, output / EVALUATION)
    publication = Publication(
        options.repo_id, options.licence or known, base, known, options.full, options.dtype, size_mb
    )
    card = card_text(facts, [result for _, result in results], publication)
    (output / "README.md").write_text(card, encoding="utf-8")
    refuse_private_words(output)
    if (output / "split.json").exists():
        notes.append("split.json and the results list case ids as the data set names them; they must name no patient")
    files = {f.relative_to(output).as_posix(): f.stat().st_size for f in sorted(output.rglob("*")) if f.is_file()}
    return Staged(files, notes)


def push_space(
    demo: Path, repo_id: str, model_id: str, *, private: bool = False, token: str | bool | None = None
) -> str:
    """Publish a folder with a Gradio app as a Space of the same name, which names the model in its header.

    A Space that does not install this library gets its code beside app.py, in the version at hand.

    Returns:
        the address of the commit.

    Raises:
        CheckpointError: no app there, or what the Hub refuses.
    """
    check_demo(demo)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "space"
        shutil.copytree(demo, folder, ignore=shutil.ignore_patterns("__pycache__", ".*", "*.pyc"))
        _, header, text = (folder / "README.md").read_text(encoding="utf-8").split("---", 2)
        settings = {**yaml.safe_load(header), "models": [model_id]}
        header = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        (folder / "README.md").write_text(f"---\n{header}---{text}", encoding="utf-8")
        refuse_private_words(folder)
        requirements = folder / "requirements.txt"
        if requirements.is_file() and "medsam-adapter" not in requirements.read_text(encoding="utf-8"):
            ours = shutil.ignore_patterns("__pycache__", "*.pyc", "*.so")  # the kernel was built for this machine
            shutil.copytree(_PACKAGE, folder / _PACKAGE.name, ignore=ours)
        return commit_folder(
            folder, repo_id, message=f"A demo of {model_id}", repo_type="space", space_sdk="gradio",
            private=private or None, token=token,
        )  # fmt: skip


def check_demo(demo: Path) -> None:
    """Raises CheckpointError unless a folder is a Gradio Space: app.py, and README.md with the Space's header."""
    readme = demo / "README.md"
    has_header = readme.is_file() and readme.read_text(encoding="utf-8").startswith("---")
    if not (demo / "app.py").is_file() or not has_header:
        raise CheckpointError(
            "there is no demo to publish as a Space", file=demo,
            expected="a folder with app.py and a README.md with a Space's header (sdk: gradio)",
            found="no such folder" if not demo.is_dir() else "a folder without them",
            hint="name it with --demo FOLDER, or publish the model without --space",
        )  # fmt: skip


def _results(facts: RunFacts, options: PushOptions) -> tuple[list[tuple[Path, EvaluationResult]], list[str]]:
    """The evaluations to publish, this run's first; and what there is to say of them."""
    found = {folder.resolve(): result for folder, result in facts.stored_results()}
    for folder in options.results:
        file = Path(folder).resolve()
        found[file.parent if file.is_file() else file] = EvaluationResult.load(folder)
    own = [(folder, result) for folder, result in found.items() if facts.is_own(result)]
    stale = [(f, r) for f, r in found.items() if not facts.is_own(r) and facts.bears_name(r)]
    others = [(f, r) for f, r in found.items() if not facts.is_own(r) and not facts.bears_name(r)]
    run, results = (shlex.quote(str(path)) for path in (facts.folder, facts.folder / "evaluation"))
    again = f"msa evaluate {run} -o {results}"
    if stale and not options.force:
        raise CheckpointError(
            "its results are of other weights than those in the run folder", file=stale[0][0],
            expected=f"weights {(facts.sha256 or '')[:10]}",
            found=f"weights {str(stale[0][1].settings.get('model_sha256'))[:10]}",
            hint=f"evaluate it again: {again}; --force leaves them out",
        )  # fmt: skip
    if not own and facts.best["val_dice"] is None and not options.force:
        raise CheckpointError(
            "the run has no scores, so nobody could tell how good it is", file=facts.folder,
            expected="an evaluation of it, or a validation Dice in best.json",
            found="results of other models only" if others else "neither in the run folder",
            hint=f"{again}, or --force to publish it with a card that says so",
        )  # fmt: skip
    notes = [f"{len(stale)} results are of other weights and are left out"] if stale else []
    notes += [] if own or facts.best["val_dice"] is not None else ["nothing was measured, and the card says so"]
    seen = [str(told) for _, result in own if (told := result.settings.get("seen_cases"))]
    notes += [f"{told} The card says so, and the model-index leaves them out." for told in dict.fromkeys(seen)]
    return [*own, *(others if own else [])], notes


def _published_base(facts: RunFacts, options: PushOptions) -> str:
    """Under which name others find the base."""
    base = options.base or facts.trained.base
    adapter = None if facts.is_whole else read_adapter_config(str(facts.folder))
    if adapter is None or options.full:
        if adapter is not None:
            refuse_local_text_model(adapter, facts.folder)
        is_local = Path(base).is_dir() or Path(base).is_absolute()
        return Path(base).name if is_local else base
    adapter.base_model_name_or_path = base
    refuse_local_names(adapter, base, facts.folder)
    return base


def _write_model(facts: RunFacts, output: Path, base: str, options: PushOptions) -> None:
    if options.dtype and (options.full or facts.is_whole):
        raise CheckpointError(
            "a whole model is published in the precision it has", file=facts.folder, expected="an adapter for --dtype",
            found="all weights", hint="leave --dtype out",
        )  # fmt: skip
    if options.full and not facts.is_whole:
        model = MSAModel.from_pretrained(facts.folder)
        model.peft_config["default"].base_model_name_or_path = base
        model.save_pretrained(output, full=True)
        _copy_clean(output / "config.json", output / "config.json")
        return
    for file in sorted(facts.folder.glob("model*.safetensors*")) if facts.is_whole else [facts.folder / WEIGHTS_NAME]:
        if options.dtype:
            tensors = {name: value.to(DTYPES[options.dtype]) for name, value in load_file(file).items()}
            save_file(tensors, output / file.name, metadata={"format": "pt"})
        else:
            shutil.copyfile(file, output / file.name)
    _copy_clean(facts.folder / "config.json", output / "config.json")
    if not facts.is_whole:
        adapter = json.loads((facts.folder / "adapter_config.json").read_text(encoding="utf-8"))
        adapter["base_model_name_or_path"] = base
        (output / "adapter_config.json").write_text(json.dumps(without_paths(adapter), indent=2) + "\n")


def _write_result(folder: Path, result: EvaluationResult, output: Path) -> None:
    """results.json, results.csv and prompts.json of one evaluation; no pictures, which show patients."""
    protocol = str(result.settings.get("protocol") or result.protocol).replace(" ", "-")
    target = output / f"{result.model.replace('/', '_')}_{protocol}_{result.settings.get('per', '')}".rstrip("_")
    number = 2
    while target.exists():
        target, number = target.with_name(f"{target.name}-{number}"), number + 1
    target.mkdir(parents=True)
    for name in (RESULTS_JSON, RESULTS_CSV, PROMPTS_JSON):
        if (folder / name).is_file():
            _copy_clean(folder / name, target / name)


def _copy_clean(source: Path, target: Path) -> None:
    """Copy a file; paths in JSON become names."""
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".json":
        text = json.dumps(without_paths(json.loads(text)), indent=1, ensure_ascii=False) + "\n"
    target.write_text(text, encoding="utf-8")
