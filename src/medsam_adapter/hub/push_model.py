"""`model.push_to_hub`: a model as it is in memory, in one commit.

For a finished run `msa push RUN` is the better way: it publishes the processor, the recipe and the scores too, with a
card made of them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from huggingface_hub import HfApi

from medsam_adapter.errors import CheckpointError
from medsam_adapter.hub.commit import commit_folder, hub_errors

if TYPE_CHECKING:
    from transformers import SamModel as _Model  # what this is mixed into
else:
    _Model = object

MODEL_FILES = ("config.json", "adapter_config.json", "adapter_model.safetensors", "model.safetensors")
"""What makes a repo open; those of an earlier upload must not outlive a later one."""
PUSH_ARGUMENTS = (
    "repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags",
)  # fmt: skip
"""What `save_pretrained(..., push_to_hub=True)` hands on to `push_to_hub`."""
TAGS = ("msa-adapter", "medical", "segmentation", "sam", "peft")


class PushesToHub(_Model):
    """Mixin of `MSAModel`, in front of transformers' `PushToHubMixin`."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        full: bool = False,
        adapter_name: str | None = None,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
    ) -> str:
        """Publish the adapter (default), or base and adapters in one file. A README.md that is there stays.

        Args:
            repo_id: ORG/NAME.
            full: also the base's weights.
            adapter_name: which adapter; the active one by default.
            revision: branch, made if it is not there.
            max_shard_size: of the files of a full model.
            tags: for a new card, beside ours.

        Returns:
            the address of the commit.

        Raises:
            CheckpointError: a text model that lies on this machine only, or a base unless `full`, more than one active
                adapter and no name, a name with `full`, or what the Hub refuses.
        """
        is_adapter = self._hf_peft_config_loaded and not full
        for adapter in self.peft_config.values() if self._hf_peft_config_loaded and full else ():
            refuse_local_text_model(adapter, repo_id)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if is_adapter:
                self.save_pretrained(folder, adapter_name=adapter_name)
                name = adapter_name or self.active_adapters()[0]
                refuse_local_names(self.peft_config[name], self.base_name, repo_id)
            else:
                self.save_pretrained(folder, full=True, adapter_name=adapter_name, max_shard_size=max_shard_size)
                config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
                for stored in (config.get("adapter_configs") or {}).values():
                    stored["base_model_name_or_path"] = _last_part_if_local(stored.get("base_model_name_or_path"))
                (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            (folder / ".gitattributes").unlink(missing_ok=True)
            with hub_errors(repo_id, "cannot be put on the Hub"):
                # a new branch starts from main
                revisions = dict.fromkeys([revision, None])
                has_card = any(
                    HfApi(token=token).file_exists(repo_id, "README.md", revision=each) for each in revisions
                )
            if not has_card:
                base = (self.peft_config[name].base_model_name_or_path or self.base_name) if is_adapter else None
                (folder / "README.md").write_text(_short_card(repo_id, base, tags or []))
            return commit_folder(
                folder, repo_id, message=commit_message or "Upload model", description=commit_description or "",
                private=private, revision=revision, create_pr=create_pr, token=token, replaces=MODEL_FILES,
            )  # fmt: skip


def refuse_local_names(adapter, base: str | None, file: str | Path) -> None:
    """An adapter that names a folder of this machine could be opened by nobody else.

    Raises:
        CheckpointError: such a base or text model.
    """
    hint = "put the base on the Hub and say which repo it is (msa push --base ORG/NAME), or publish both in one file "
    _refuse_local("base", adapter.base_model_name_or_path or base, file, hint + "(--full, full=True)")
    refuse_local_text_model(adapter, file)


def refuse_local_text_model(adapter, file: str | Path) -> None:
    """The text model is in no file of ours, that of a full model neither.

    Raises:
        CheckpointError: one that lies in a folder of this machine.
    """
    if getattr(adapter, "use_text", False):
        hint = "put the text model on the Hub and train with its name as text.model"
        _refuse_local("text model", adapter.text_model, file, hint)


def _refuse_local(what: str, name: str | None, file: str | Path, hint: str) -> None:
    if name and _is_local(name):
        raise CheckpointError(
            f"its {what} lies in a folder of this machine, so nobody else could open the adapter", file=file,
            expected=f"a {what} on the Hub, or one that ships with medsam-adapter", found=name, hint=hint,
        )  # fmt: skip


def _is_local(name: str) -> bool:
    return Path(name).is_dir() or Path(name).is_absolute() or name.startswith((".", "~"))


def _last_part_if_local(name: str | None) -> str | None:
    return Path(name).name if name and _is_local(name) else name


def _short_card(repo_id: str, base: str | None, tags: list[str]) -> str:
    """A card for a model without a run: what it is, how to open it, and that nothing is known of how good it is."""
    metadata = {
        "library_name": "medsam-adapter",
        "pipeline_tag": "mask-generation",
        "tags": [*dict.fromkeys([*TAGS, *tags])],
    }
    if base and "/" in base:
        metadata["base_model"] = base
    lines = [
        f"# {repo_id.split('/')[-1]}",
        "",
        f"A Medical SAM Adapter on `{base}`." if base else "A Medical SAM Adapter with its base.",
        "",
        "```python",
        "from medsam_adapter import MSAModel",
        "",
        f'model = MSAModel.from_pretrained("{repo_id}")',
        "```",
        "",
        "It was uploaded from memory: no evaluation, no data and no training are documented here. Research software,",
        "not a medical device.",
        "",
    ]
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n" + "\n".join(lines)
