"""The sections of a run's model card, each made from what the run folder holds and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsam_adapter.evaluation.results import EvaluationResult
from medsam_adapter.evaluation.tables import result_note, table_rows, to_markdown
from medsam_adapter.hub.parameter_counts import count_parameters
from medsam_adapter.hub.run_facts import RunFacts

PAPER = "https://arxiv.org/abs/2304.12620"


@dataclass(frozen=True)
class Publication:
    """What is decided when a run is published.

    Attributes:
        repo_id: ORG/NAME.
        licence: under which it is published; None if nobody said (then only with --force).
        base: name of the backbone as others find it.
        base_licence: that of the backbone; None if unknown.
        is_full: the base's weights are in the repo.
        dtype: of the published adapter's weights, where it is not the run's.
        size_mb: of the published weights.
    """

    repo_id: str
    licence: str | None
    base: str
    base_licence: str | None
    is_full: bool = False
    dtype: str | None = None
    size_mb: float | None = None


def introduction(facts: RunFacts, publication: Publication | None) -> list[str]:
    """Title and the sentence that says what it is and what it segments."""
    trained = facts.trained
    base = publication.base if publication else trained.base
    ways = ["clicks", "boxes", *(["sentences"] if trained.takes_text else [])]
    modality = f" in {facts.modality}" if facts.modality else ""
    form = ""
    if publication and publication.is_full:
        form = f", published with its base ({publication.size_mb:.0f} MB)"
    elif publication and publication.dtype:
        form = f", published in {publication.dtype} ({publication.size_mb:.1f} MB)"
    return [
        f"# {publication.repo_id.split('/')[-1] if publication else facts.name}",
        "",
        f"{trained.title} on `{base}`{form} that segments {_listed(facts.targets)}{modality}, steered by "
        f"{' or '.join([', '.join(ways[:-1]), ways[-1]])}.",
        "",
    ]


def usage(facts: RunFacts, publication: Publication | None) -> list[str]:
    """Commands to use it, from Python and from the command line."""
    name = publication.repo_id if publication else facts.folder.name
    text = f"the {facts.targets[0]}" if facts.targets and facts.trained.takes_text else None
    lines = [
        "```python",
        "from medsam_adapter import MSAPredictor",
        "",
        f'predictor = MSAPredictor.from_pretrained("{name}")',
        "predictor.set_volume(scan)                            # a nibabel image, or set_image for a picture",
        "mask = predictor.predict(points=[(x, y, z)])",
        *([f'mask = predictor.predict(text="{text}")'] if text else []),
        "```",
        "",
        "```bash",
        f"msa predict {name} scan.nii.gz --point x,y,z -o mask.nii.gz",
        *([f'msa predict {name} scan.nii.gz --text "{text}" -o mask.nii.gz'] if text else []),
        f"msa evaluate {name} --data FOLDER",
        "```",
        "",
    ]
    if publication and not publication.is_full and not facts.is_whole and publication.base != "sam-tiny":
        lines += [
            "It is a PEFT adapter, too: `import medsam_adapter`, then "
            f'`PeftModel.from_pretrained(SamModel.from_pretrained("{publication.base}"), "{name}")`, or '
            f'`SamModel.from_pretrained("{publication.base}").load_adapter("{name}")`.',
            "",
        ]
    return lines


def numbers(facts: RunFacts, results: Sequence[EvaluationResult], publication: Publication | None) -> list[str]:
    """Tables of the results, how they were measured, and the validation Dice."""
    lines = ["## Numbers", ""]
    if results:
        lines += [to_markdown(table_rows(results)), *(f"- {result_note(result)}" for result in results), ""]
    val_dice, epoch = facts.best["val_dice"], facts.best["epoch"]
    if val_dice is not None:
        prompts = facts.recipe["run"].get("validate_prompts", "1-point")
        lines += [f"Best validation Dice, {prompts} per volume: {val_dice:.3f} (epoch {epoch}).", ""]
    elif not results and publication:
        lines += ["**Nothing was measured**: no validation cases, and no evaluation was published with it.", ""]
    else:
        lines += [f"Trained for {epoch} epochs without validation cases.", ""]
    if results or val_dice is not None:
        lines += ["Dice, IoU and HD95 (mm) per case and target on the scan's own grid, then the mean over cases.", ""]
    drawn = dict.fromkeys(_how_asked(result) for result in results)
    lines += [*(f"- {how}" for how in drawn), *([""] if drawn else [])]
    if publication and publication.dtype:
        lines += [
            f"The weights were measured in the run's precision and are published rounded to {publication.dtype}.",
            "",
        ]
    return lines


def made_with(facts: RunFacts, publication: Publication | None) -> list[str]:
    """Data and its licence, the adapter's size and share, versions."""
    data, recipe = facts.data, facts.recipe
    path = recipe["data"]["path"]
    name = data.get("name") or (path if path.startswith("hf://") else Path(path).name)
    cases = ", ".join(f"{part} {count}" for part, count in data.get("cases", {}).items() if count)
    total, trained = count_parameters(facts)
    versions = [f"{key} {value}" for key, value in facts.versions.items() if key != "hardware"]
    base = publication.base if publication else facts.trained.base
    lines = [
        "## Made with",
        "",
        f"- data: {name}" + (f" (cases: {cases})" if cases else ""),
        f"- licence of the data: {data.get('licence') or 'not said by the data set'}",
        *([f"- cite the data: {data['citation']}"] if data.get("citation") else []),
        f"- intensity `{recipe['data']['intensity'] or 'as the layout advises, see preprocessor_config.json'}`",
        f"- base: `{base}`" + (f", licence {publication.base_licence or 'unknown'}" if publication else ""),
        *(
            [f"- started from the adapter `{facts.started_from}`, which is not published with it"]
            if facts.started_from
            else []
        ),
        facts.trained.detail,
        f"- parameters: {trained:,} trained of {total:,} ({100 * trained / total:.2g} %), {facts.size_mb:.1f} MB",
        *([f"- versions: {', '.join(versions)}"] if versions else []),
        *_made_again(facts, publication),
        "",
    ]
    return lines


def _made_again(facts: RunFacts, publication: Publication | None) -> list[str]:
    files = "- `recipe.yaml`, `versions.json` and `split.json` in this folder"
    if publication and facts.started_from:
        return [f"{files} say how it was trained; that adapter is needed to do it again"]
    return [f"{files} make it again: `msa train recipe.yaml{' --data.path FOLDER' if publication else ''}`"]


def cost(facts: RunFacts) -> list[str]:
    """Time, hardware, and carbon where somebody measured it."""
    emissions = facts.emissions()
    hours = facts.hours
    time = "not recorded" if not hours else f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"
    carbon = (
        f"{emissions['emissions']:g} g CO2eq, measured with CodeCarbon"
        if emissions
        else "not measured (no CodeCarbon run)"
    )
    return [
        "## Cost",
        "",
        f"- training: {time} on {facts.versions.get('hardware') or 'hardware that was not recorded'}, "
        f"{len(facts.rows)} epochs, validation included",
        f"- carbon: {carbon}",
        "",
    ]


def limits(facts: RunFacts) -> list[str]:
    """What it must not be taken for."""
    return [
        "## Limits",
        "",
        "Research software, **not a medical device**: not for diagnosis or treatment.",
        f"It has seen one data set only{f' ({facts.modality})' if facts.modality else ''}, and knows "
        f"{_listed(facts.targets)}. Scans of other machines, protocols, ages or diseases may fail without notice:",
        "look at each mask before it is used.",
        "",
    ]


def citation() -> list[str]:
    """The method's article."""
    return [
        "## Cite",
        "",
        f"The method: Wu et al., Medical SAM Adapter, Medical Image Analysis 2025, [{PAPER}]({PAPER}).",
        "",
    ]


def licence(publication: Publication) -> list[str]:
    """Under which terms it is published."""
    return [
        "## Licence",
        "",
        publication.licence
        or f"Not stated. The licence of its base, `{publication.base}`, is not known; find out before you use it.",
        "",
    ]


def _how_asked(result: EvaluationResult) -> str:
    settings = result.settings
    facts = [f"{key} {settings[key]}" for key in ("dataset", "part", "seed") if settings.get(key) not in (None, "")]
    times = [case.seconds for case in result.cases if not math.isnan(case.seconds)]
    facts += [f"{sum(times) / len(times):.1f} s a mask"] if times else []
    seen = f". **{settings['seen_cases']}**" if settings.get("seen_cases") else ""
    return f"{result.model}, {result.protocol}: {', '.join(facts) or 'settings not stored'}{seen}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "objects"
