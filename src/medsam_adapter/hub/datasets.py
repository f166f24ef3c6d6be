"""Data sets on the Hub: what `msa data prepare` made, uploaded in one commit."""

from __future__ import annotations

from pathlib import Path

from medsam_adapter.errors import CheckpointError
from medsam_adapter.hub.commit import commit_folder


def push_dataset(folder: Path, repo_id: str, *, private: bool = True) -> str:
    """Upload a prepared folder as a data set repo, made if it is not there; a failed upload can be repeated.

    Returns:
        the address of the commit.

    Raises:
        CheckpointError: a name that the Hub does not take, no right to write there, or no network.
    """
    try:
        return commit_folder(
            folder, repo_id, message="Prepared by medsam-adapter", repo_type="dataset", private=private,
            replaces=("data/",),
        )  # fmt: skip
    except CheckpointError as error:
        raise CheckpointError(
            error.problem, file=error.file, expected=error.expected, found=error.found,
            hint=f"the folder {folder} is complete: hf upload {repo_id} {folder} . --repo-type dataset sends it again",
        ) from error  # fmt: skip
