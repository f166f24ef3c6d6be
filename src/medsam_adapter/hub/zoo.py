"""A list of adapters: those published on the Hub under our tag, and those that lie here as run folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from medsam_adapter.errors import MSAError
from medsam_adapter.hub.run_facts import RunFacts

TAG = "msa-adapter"
MAX_LISTED = 500
DEPTH = 3
"""So many folders below a given one are looked into."""


@dataclass(frozen=True)
class ZooEntry:
    """One adapter.

    Attributes:
        name: what `from_pretrained` opens: a Hub id or a folder.
        where: "hub" or "local".
        targets: what it segments.
        modality: "" if it is not said.
        base: the backbone.
        size_mb: of its weights; None if it is not said.
        dice: mean over targets; None if nothing was measured.
        dice_of: what that Dice is of: data and prompts, or "validation".
        private: on the Hub, visible to you only.
    """

    name: str
    where: str
    targets: list[str]
    modality: str
    base: str
    size_mb: float | None
    dice: float | None
    dice_of: str = ""
    private: bool = False


def published_adapters(token: str | bool | None = None) -> tuple[list[ZooEntry], str | None]:
    """Adapters on the Hub, and why there are none: no network, or HF_HUB_OFFLINE."""
    try:
        models = HfApi(token=token).list_models(filter=TAG, cardData=True, full=True, limit=MAX_LISTED)
        return [_of_card(model.id, model.card_data, bool(model.private)) for model in models], None
    except (OSError, HTTPError) as error:
        return [], (str(error).strip().splitlines() or [type(error).__name__])[0]


def local_adapters(folders: Iterable[Path]) -> tuple[list[ZooEntry], list[str]]:
    """Run folders in or below the given ones, and those that could not be read, a sentence each."""
    entries, unread = [], []
    for folder in folders:
        for run in _runs_below(folder):
            try:
                entries.append(_of_run(RunFacts.read(run)))
            except MSAError as error:
                unread.append(f"{run}: {error.problem} ({error.found})")
    return list({entry.name: entry for entry in entries}.values()), unread


def _runs_below(folder: Path) -> list[Path]:
    pattern, found = "best.json", []
    for _ in range(DEPTH + 1):
        found += [file.parent for file in folder.glob(pattern)]
        pattern = f"*/{pattern}"
    return sorted(found)


def _of_run(facts: RunFacts) -> ZooEntry:
    own = [result for _, result in facts.stored_results() if facts.is_own(result)]
    own = [result for result in own if not result.settings.get("seen_cases")]
    dice, dice_of = facts.best["val_dice"], "validation"
    if own:
        dice = own[0].summary().overall.dice.mean
        dice_of = ", ".join(str(part) for part in (own[0].settings.get("dataset"), own[0].protocol) if part)
    known = dice is not None and dice == dice
    return ZooEntry(
        str(facts.folder), "local", facts.targets, facts.modality, facts.trained.base, round(facts.size_mb, 2),
        round(dice, 4) if known else None, dice_of if known else "",
    )  # fmt: skip


def _of_card(name: str, card: Any, private: bool) -> ZooEntry:
    """From the metadata of a card; it may be anybody's, so nothing in it is relied upon."""
    data = _plain(card)
    ours = _mapping(data, "msa")
    targets = ours["targets"] if isinstance(ours.get("targets"), list) else []
    dice, dice_of = _dice(data.get("model-index"))
    if dice is None and _number(ours.get("val_dice")) is not None:
        dice, dice_of = _number(ours["val_dice"]), "validation"
    base = ours.get("base") or data.get("base_model") or ""
    return ZooEntry(
        name, "hub", [str(target) for target in targets], str(ours.get("modality") or ""),
        str(base[0] if isinstance(base, list) and base else base), _number(ours.get("size_mb")), dice, dice_of, private,
    )  # fmt: skip


def _plain(card: Any) -> dict[str, Any]:
    """The card's metadata as the Hub sent it; the client takes model-index apart into `eval_results`."""
    if card is None:
        return {}
    try:
        return json.loads(json.dumps(card.to_dict(), default=str))
    except (TypeError, ValueError, AttributeError, KeyError):
        return {}


def _dice(index: Any) -> tuple[float | None, str]:
    """The first Dice over all targets in a model-index, else the first Dice; and what it is of."""
    found: list[tuple[bool, float, str]] = []
    for model in index if isinstance(index, list) else []:
        for result in _list(model, "results"):
            dataset = _mapping(result, "dataset")
            for metric in _list(result, "metrics"):
                value = _number(metric.get("value"))
                if str(metric.get("type", "")).lower() != "dice" or value is None:
                    continue
                words = [dataset.get("name"), _mapping(metric, "args").get("prompts")]
                is_mean = "mean over targets" in str(metric.get("name", ""))
                found.append((not is_mean, value, ", ".join(str(word) for word in words if word)))
    if not found:
        return None, ""
    _, value, dice_of = min(found, key=lambda each: each[0])
    return value, dice_of


def _mapping(content: dict[str, Any], key: str) -> dict[str, Any]:
    return content[key] if isinstance(content.get(key), dict) else {}


def _list(content: Any, key: str) -> Sequence[dict[str, Any]]:
    items = content.get(key) if isinstance(content, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value else None
