"""Prompts of an earlier evaluation, asked again: `prompts.json`, which every evaluation writes beside its results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam_adapter.data.layouts import Dataset
from medsam_adapter.data.sample import Case
from medsam_adapter.errors import DataError, PromptError
from medsam_adapter.evaluation.protocol import check_protocol
from medsam_adapter.evaluation.questions import Question
from medsam_adapter.prompts.types import ObjectPrompt


@dataclass(frozen=True)
class Replay:
    """What a prompts.json holds.

    Attributes:
        file: where it was read from.
        protocol, per, seed: how the prompts were drawn.
        cases: {case id: {target: prompt, or None where the case does not show the target}}; prompts in the file frame.
    """

    file: Path
    protocol: str
    per: str
    seed: int
    cases: dict[str, dict[str, ObjectPrompt | None]]

    @classmethod
    def load(cls, path: str | Path) -> Replay:
        """Read a prompts.json, or the one in a folder of results.

        Raises:
            DataError: no such file, or not one of ours.
        """
        path = Path(path)
        path = path / "prompts.json" if path.is_dir() else path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            protocol, per, seed = content["protocol"], content["per"], int(content["seed"])
            check_protocol(protocol, per)
            cases = {
                str(case): {str(target): _prompt(prompt) for target, prompt in asked.items()}
                for case, asked in content["cases"].items()
            }
        except OSError as error:
            raise DataError(
                "there are no prompts here", file=path, found=error.strerror,
                hint="give the prompts.json beside the results of an evaluation",
            ) from error  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise DataError(
                "is no file of prompts", file=path, expected="the prompts.json that an evaluation wrote",
                found=repr(error).splitlines()[0],
            ) from error  # fmt: skip
        return cls(path, protocol, per, seed, cases)

    def cases_of(self, dataset: Dataset) -> list[Case]:
        """The cases of the file, in its order.

        Raises:
            DataError: a case that the data set does not have, or that has no reference.
        """
        labelled = {case.case_id: case for case in dataset.labelled}
        unknown = [case_id for case_id in self.cases if case_id not in labelled]
        if unknown:
            raise DataError(
                "holds prompts of cases that the data set does not have with a reference", file=self.file,
                expected=f"cases of {dataset.root}, such as {', '.join(list(labelled)[:3])}",
                found=", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""),
                hint="give the data set that the prompts were drawn from with --data",
            )  # fmt: skip
        return [labelled[case_id] for case_id in self.cases]

    def questions(self, case_id: str, labels: np.ndarray, targets: Mapping[str, tuple[int, ...]]) -> list[Question]:
        """The questions about one case.

        Args:
            labels: (D, H, W) of the case.
            targets: {name: label values} of the case.

        Raises:
            PromptError: a target that the case does not have, or one that it shows though the file says otherwise.
        """
        asked = []
        for name, prompt in self.cases[case_id].items():
            values = _values(name, targets)
            if values is None:
                raise PromptError(
                    f"holds a prompt for '{name}' of case '{case_id}', which the data set does not know",
                    file=self.file, expected=", ".join(targets) or "no targets", found=name,
                )  # fmt: skip
            if prompt is None and np.isin(labels, values).any():
                raise PromptError(
                    f"says that case '{case_id}' does not show '{name}'", file=self.file, expected="no such voxels",
                    found=f"{int(np.isin(labels, values).sum())} voxels in its reference",
                    hint="the data set is another version; draw new prompts without --replay",
                )  # fmt: skip
            asked.append(Question(name, values, prompt))
        return asked


def _values(name: str, targets: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Label values of a question's target: of one, of a union ("liver + spleen"), or none ("absent 1")."""
    if name in targets:
        return targets[name]
    parts = name.split(" + ")
    if len(parts) > 1 and all(part in targets for part in parts):
        return tuple(value for part in parts for value in targets[part])
    return () if name.startswith("absent ") else None


def _prompt(content: dict | None) -> ObjectPrompt | None:
    """Raises ValueError, KeyError or TypeError for what is no prompt."""
    if content is None:
        return None
    prompt = ObjectPrompt.from_json(content)
    if not (prompt.points or prompt.boxes or prompt.text):
        raise ValueError("a prompt that says nothing")
    return prompt
