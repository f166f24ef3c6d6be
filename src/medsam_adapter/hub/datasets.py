"""Data sets on the Hub: what `msa data prepare` made, uploaded in one commit."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from medsam_adapter.errors import CheckpointError


def push_dataset(folder: Path, repo_id: str, *, private: bool = True) -> str:
    """Upload a prepared folder as a data set repo, made if it is not there; a failed upload can be repeated.

    Returns:
        the address of the commit.

    Raises:
        CheckpointError: a name that the Hub does not take, no right to write there, or no network.
    """
    api = HfApi()
    try:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        return str(
            api.upload_folder(
                folder_path=folder, repo_id=repo_id, repo_type="dataset", commit_message="Prepared by medsam-adapter"
            )
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(
            "cannot be put on the Hub",
            file=repo_id,
            expected="ORG/NAME that you may write to, and a token (hf auth login)",
            found=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            hint=f"the prepared folder {folder} is complete: try again with hf upload {repo_id} {folder} . "
            "--repo-type dataset",
        ) from error
