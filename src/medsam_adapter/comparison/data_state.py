"""What tells one state of a data set from another, so that a comparison does not show old scores for new data."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePath

from medsam_adapter.data.file_state import file_state
from medsam_adapter.data.layouts import Dataset
from medsam_adapter.data.splits import Split


def data_state(dataset: Dataset, split: Split) -> str:
    """A hash of the split, of the targets, and of names, sizes and times of change of the cases' files.

    Nothing is read, so that it is quick for any data set; of one on the Hub only the names count.
    """
    files: list[Path] = []
    for case in dataset.labelled:
        files += [case.image, *([case.label] if case.label else []), *case.channels, *case.raters.values()]
    # Cases in tables are no files of their own. An address on the Hub is a pure path, which knows no disk.
    files += sorted(Path(dataset.root, "data").glob("*.parquet"))
    facts = [split, dataset.targets, [(_name(file, dataset.root), file_state(file)) for file in files]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _name(file: PurePath, root: PurePath) -> str:
    """A file's name from the data set's folder on, so that it is the same however the way there is spelled."""
    if file.is_relative_to(root):
        return str(file.relative_to(root))
    return str(file.resolve() if isinstance(file, Path) else file)
