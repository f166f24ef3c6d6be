"""One folder, one commit: how anything of ours reaches the Hub.

Either the commit is there with all its files, or the repo is as it was: what was uploaded before a failure is not shown
by the Hub, and is taken up again the next time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from medsam_adapter.errors import CheckpointError


def commit_folder(
    folder: Path,
    repo_id: str,
    *,
    message: str,
    description: str = "",
    repo_type: str = "model",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    replaces: Sequence[str] = (),
    space_sdk: str | None = None,
) -> str:
    """Upload all files below a folder in one commit; the repo is made if it is not there.

    Args:
        private: of a new repo; None takes the namespace's default. An existing one stays as it is.
        revision: branch to commit to, made if it is not there; main by default.
        replaces: files (or folders, "name/") of an earlier upload that must not outlive this one, if the folder does
            not have them.

    Returns:
        the address of the commit.

    Raises:
        CheckpointError: a name that the Hub does not take, no right to write there, no network, or a commit of someone
            else in the meantime. Calling it again goes on.
    """
    api = HfApi(token=token)
    with hub_errors(repo_id, "cannot be put on the Hub"):
        made = api.create_repo(
            repo_id,
            repo_type=repo_type,
            private=private,
            exist_ok=True,
            **{"space_sdk": space_sdk} if space_sdk else {},
        )
        repo_id = made.repo_id
        if revision and not revision.startswith("refs/pr/"):
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        head = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
        there = {file.rfilename for file in head.siblings or []}
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        names = [file.relative_to(folder).as_posix() for file in files]
        operations = [
            *(CommitOperationAdd(name, str(file)) for name, file in zip(names, files, strict=True)),
            *(CommitOperationDelete(name) for name in sorted(there - set(names)) if _is_one_of(name, replaces)),
        ]
        done = api.create_commit(
            repo_id,
            operations,
            commit_message=message,
            commit_description=description,
            repo_type=repo_type,
            revision=revision,
            create_pr=create_pr,
            parent_commit=None if create_pr else head.sha,
        )
    return str(done.pr_url or done.commit_url)


def _is_one_of(name: str, files: Sequence[str]) -> bool:
    return any(name == file or (file.endswith("/") and name.startswith(file)) for file in files)


@contextlib.contextmanager
def hub_errors(repo_id: str, problem: str) -> Iterator[None]:
    """What the client raises inside, as a `CheckpointError` that says what to do."""
    try:
        yield
    except (HTTPError, HFValidationError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        expected, hint = _advice(error)
        raise CheckpointError(
            problem, file=repo_id, expected=expected, hint=hint,
            found=(str(error).strip().splitlines() or [type(error).__name__])[0],
        ) from error  # fmt: skip


def _advice(error: Exception) -> tuple[str, str]:
    """What was expected, and what to do next."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if isinstance(error, HFValidationError):
        return "ORG/NAME of letters, digits, '-', '_' and '.'", "choose another name"
    if isinstance(error, LocalTokenNotFoundError) or status in (401, 403):
        return "a repo that you may write to, and a token with the right to", "hf auth login, or check ORG/NAME"
    if status in (409, 412):
        return "no other commit while this one was under way", "look at what was committed there, then try again"
    if isinstance(error, OfflineModeIsEnabled):
        return "the network", "unset HF_HUB_OFFLINE"
    if isinstance(error, BadRequestError):
        return "files that the Hub takes", "mend what it names, then try again"
    return (
        "an answer of the Hub",
        "do the same again: nothing is published by halves, and what is there is not sent twice",
    )
