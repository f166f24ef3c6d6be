"""What goes beside the tables: `README.md` for people and the Hub, `msa_dataset.json` for reading the set again."""

from __future__ import annotations

from typing import Any

import yaml

from medsam_adapter.data.layouts import Dataset

FORMAT_VERSION = 1


def metadata_of(dataset: Dataset, *, is_converted: bool, raters: list[str]) -> dict[str, Any]:
    """All that `Dataset` knows beyond the files; values and colours only where the files still hold them."""
    return {
        "format_version": FORMAT_VERSION,
        "name": dataset.name,
        "layout": dataset.layout,
        "label_names": {str(value): name for value, name in dataset.label_names.items()},
        "regions": {name: list(values) for name, values in dataset.regions.items()},
        "nested": dataset.nested,
        "instances": dataset.instances,
        "mask_values": None if is_converted else _pairs(dataset.mask_values),
        "colours": None if is_converted else _pairs(dataset.colours),
        "modality": dataset.modality,
        "licence": dataset.licence,
        "intensity": dataset.intensity,
        "orientation": dataset.orientation,
        "raters": raters,
        "notes": dataset.notes,
    }


def _pairs(values: dict | None) -> list | None:
    return None if values is None else [[key, label] for key, label in values.items()]


def card(dataset: Dataset, split: dict[str, list[str]], *, is_converted: bool, licence: str | None) -> str:
    """README.md: which file is which part, and what the label values in the files mean."""
    if dataset.colours is not None and not is_converted:
        meanings = {str(colour): dataset.label_names[label] for colour, label in dataset.colours.items()}
    elif dataset.mask_values is not None and not is_converted:
        meanings = {str(value): dataset.label_names[label] for value, label in dataset.mask_values.items()}
    else:
        meanings = {str(value): name for value, name in dataset.label_names.items()}
    files = [{"split": part, "path": f"data/{part}-*.parquet"} for part, ids in split.items() if ids]
    # The Hub knows licences by short names only; any other goes by "other" and its words.
    metadata = {
        "pretty_name": dataset.name,
        "license": "other",
        "license_name": licence or "unknown",
        "task_categories": ["image-segmentation"],
        "tags": ["medical", "medsam-adapter"],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    counts = ", ".join(f"{part} {len(ids)}" for part, ids in split.items())
    origin = (
        "Images and labels were converted from the files of the data set: NIfTI for volumes, PNG for pictures, label\n"
        "values as below."
        if is_converted
        else "Images and labels are the source files byte for byte, headers\nincluded: make sure that they name no "
        "patient before sharing."
    )
    regions = [f"- {name}: {' + '.join(map(str, values))}" for name, values in dataset.regions.items()]
    lines = [
        f"# {dataset.name}",
        "",
        f"- cases: {counts}, split by patient (`split.json`)",
        f"- modality: {dataset.modality or 'not said'}",
        f"- licence: {licence or 'not said; find out before sharing'}",
        *(f"- {note}" for note in dataset.notes),
        "",
        f"Columns: `case_id`, `patient_id`, `image`, `label`, `split`. {origin}",
        "",
        "| value in the label files | meaning |",
        "|---|---|",
        "| 0 | background |",
        *(f"| {value} | {name} |" for value, name in meanings.items()),
        *(["| 1, 2, ... | the objects of one image |"] if dataset.instances else []),
        "",
        *(["Targets made of several values:", "", *regions, ""] if regions else []),
        "```python",
        'datasets.load_dataset("THIS_REPO", streaming=True)',
        "```",
        "",
        "```bash",
        "msa train RECIPE --data.path hf://datasets/THIS_REPO",
        "```",
        "",
        f"Made with `msa data prepare` of medsam-adapter from `{dataset.root.name}`.",
        "",
    ]
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n\n" + "\n".join(lines)
