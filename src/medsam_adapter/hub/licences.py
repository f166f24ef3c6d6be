"""What is known of a base's licence, and how a card names one."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HFValidationError, HTTPError

KNOWN = {
    "sam-tiny": "apache-2.0",
    "facebook/sam-vit-base": "apache-2.0",
    "facebook/sam-vit-large": "apache-2.0",
    "facebook/sam-vit-huge": "apache-2.0",
}
"""Bases whose licence need not be looked up: the shipped one is under this package's, the others' cards say so."""

HUB_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "openrail",
    "unlicense",
}  # fmt: skip
"""Short names that the Hub knows; any other goes by "other" and its words (https://huggingface.co/docs/hub/repositories-licenses)."""


def base_licence(base: str, token: str | bool | None = None) -> str | None:
    """The licence of a backbone: known, from its folder's card, or from the Hub; None if nobody says."""
    if base in KNOWN:
        return KNOWN[base]
    try:
        if Path(base).is_dir():
            card = ModelCard.load(Path(base) / "README.md").data
        else:
            card = HfApi(token=token).model_info(base).card_data
    except (OSError, ValueError, HTTPError, HFValidationError):
        return None
    licence = (card.get("license_name") or card.get("license")) if card is not None else None
    return str(licence) if licence and licence not in ("other", "unknown") else None


def licence_metadata(licence: str) -> dict[str, str]:
    """The fields of a card's metadata that state a licence."""
    short = licence.strip().lower().replace(" ", "-")
    if short in HUB_LICENCES:
        return {"license": short}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", short).strip("-")}
