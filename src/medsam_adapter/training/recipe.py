"""A recipe: dataclasses that are the YAML file and the command line at once.

`recipe.yaml` holds only what differs from the defaults here; `--section.key value` overrides it; the resolved recipe is
saved with each run. The text under a field is its help.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medsam_adapter.baselines.names import BASELINES
from medsam_adapter.errors import RecipeError
from medsam_adapter.prompts.simulate import PromptMix
from medsam_adapter.training.recipe_bounds import check_bounds
from medsam_adapter.training.recipe_reading import filled, load_yaml


@dataclass
class ModelSection:
    base: str = "sam-tiny"
    """Backbone: sam-tiny (ships with the package), a Hub id such as facebook/sam-vit-base, or a folder."""
    image_size: int | None = None
    """Side of the model frame in pixels, a multiple of the patch; the base's own if empty."""
    method: str = "msa"
    """What is trained: msa (adapters), lora (PEFT's LoRA), decoder (the mask decoder), full (image encoder and mask
    decoder, as MedSAM does), or a network without prompts: nnunet, unetr, ... (`msa compare --list`)."""
    size: str = "published"
    """Of a network without prompts: published (as in its paper), small (minutes on a CPU), tiny (tests)."""
    adapter: dict[str, Any] = field(default_factory=dict)
    """Fields of MSAAdapterConfig, for method msa: bottleneck_ratio, use_depth, num_slices, prompt_fusion, ..."""
    lora: dict[str, Any] = field(default_factory=dict)
    """Fields of PEFT's LoraConfig, for method lora: r, lora_alpha, target_modules, ..."""


@dataclass
class DataSection:
    path: str = ""
    """Folder of the data set."""
    layout: str = "auto"
    """How it is laid out: auto, or a name of `msa data list`."""
    channel: str = ""
    """Of several channels, such as MRI sequences: which to take, by name or number; the layout's default if empty."""
    raters: str = "each"
    """Of several people who marked a case: each (one is drawn for each sample) or majority."""
    intensity: str | None = None
    """rgb, unit, percentile, window or ct:WINDOW; may be empty for 8-bit pictures and where the layout advises one."""
    window_hu: list[float] | None = None
    """[low, high] for intensity: window."""
    orientation: str | None = None
    """Where x, y, z of volumes point: LPS axial (unless the layout advises another), LIP coronal, PIL sagittal slices;
    `file` keeps the file's axes."""
    targets: list[str] | None = None
    """Names of the labels to learn; all if empty."""
    split: str | None = None
    """A JSON file {train: [case ids], val: [...], test: [...]}; if empty the data set's own, or one made from the
    fractions and the seed."""
    official_split: bool = True
    """Without a split file: take the data set's own split where it comes with one."""
    val_fraction: float = 0.1
    """Share of the patients that choose the best checkpoint."""
    test_fraction: float = 0.0
    """Share of the patients that training never sees."""
    split_seed: int = 0
    """Seed of the split."""
    max_train_cases: int | None = None
    """Use only so many training cases, drawn by split_seed."""
    max_val_cases: int | None = 16
    """Validate on at most so many cases, drawn by split_seed."""
    chunk_slices: int | None = None
    """Slices of a volume in a sample; if empty model.adapter.num_slices, which is 8 where nobody sets it."""
    samples_per_case: int = 1
    """Chunks drawn from each volume in an epoch (pictures: repeats)."""
    objects: int = 2
    """Objects prompted in each sample."""
    augment: bool = True
    """Random affine and intensity changes."""
    flip: bool = False
    """Also mirror left and right; wrong for organs that have a side."""
    workers: int = 0
    """Processes that load data."""
    feature_cache: str | None = None
    """Folder for what the frozen part of the encoder makes of each image, computed once; needs augment: false."""


PROMPTED_METHODS = ("msa", "lora", "decoder", "full")
METHODS = (*PROMPTED_METHODS, *BASELINES)
PROMPT_KINDS = tuple(field.name for field in dataclasses.fields(PromptMix))


@dataclass
class PromptSection:
    click: float = 0.5
    """Weight of steps that open with one click; the weights of all kinds need not sum to 1."""
    clicks: float = 0.1
    """Weight of two to ten clicks."""
    box: float = 0.15
    """Weight of a jittered box."""
    box_75: float = 0.0
    """Weight of a box that overlaps the target's own with IoU 0.75."""
    box_50: float = 0.0
    """Weight of a box that overlaps the target's own with IoU 0.5."""
    box_and_click: float = 0.05
    """Weight of a jittered box and a click."""
    neighbour: float = 0.2
    """Weight of a mask like the one of a neighbouring slice."""
    text: float = 0.0
    """Weight of a sentence alone, said of every slice; above 0 the adapter gets text prompts."""
    text_and_click: float = 0.0
    """Weight of a sentence and a click."""
    max_corrections: int = 2
    """Most corrective clicks after the opening prompt."""
    correction_probability: float = 0.5
    """Share of the steps with corrective clicks."""
    correction_ramp: float = 0.0
    """Share of the training over which correction_probability rises from 0 to its value."""
    carry_slices: int = 16
    """In volumes: farthest slice a mask is carried to, each way; 0 trains prompted slices only."""


@dataclass
class TextSection:
    model: str = "openai/clip-vit-base-patch16"
    """Frozen CLIP text model: a Hub id, a folder, or clip-tiny, which ships with the package."""
    bank: str | None = None
    """A YAML file of sentences, or a folder of them, in addition to the bank that ships with the package."""
    elsewhere: float = 0.2
    """Share of the sentences that name any label of the data set, whether the sample shows it or not."""
    union: float = 0.15
    """Share of the sentences that name several labels, where the bank has such."""
    absent: float = 0.1
    """Share of the sentences that name something of another body region: the mask is empty."""
    anywhere: float = 0.4
    """Share of the samples cut anywhere from a volume, whether that shows a target or not."""


@dataclass
class LossSection:
    dice: float = 1.0
    """Weight of the soft Dice loss."""
    bce: float = 1.0
    """Weight of the binary cross-entropy."""
    focal: float = 0.0
    """Weight of the focal loss."""
    carry: float = 1.0
    """Weight of carried slices against prompted ones."""
    empty: float = 1.0
    """Weight of the extra loss where a sentence names what a slice does not show."""
    score: float = 1.0
    """Weight of the error of the predicted IoU where a sentence stands alone."""


@dataclass
class OptimSection:
    epochs: int = 20
    """Passes over the training cases."""
    minutes: float | None = None
    """In place of epochs: train for so long, the learning rate following the time. Validation is not counted."""
    batch_size: int = 2
    """Volumes (or pictures) in a step of one process."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    warmup_fraction: float = 0.05
    """Share of the steps with a rising learning rate; cosine decay follows."""
    gradient_accumulation: int = 1
    """Steps whose gradients are averaged before an update: all steps of one weigh the same."""
    gradient_clipping: float = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""
    gradient_checkpointing: bool = False
    """Recompute the encoder's activations in the backward pass: less memory, more time."""
    mixed_precision: str = "no"
    """no, bf16 (which also keeps the encoder's frozen weights in bf16 under msa and lora) or fp16."""
    compile: bool = False
    """torch.compile for the encoder's blocks; the first steps take minutes, and a C++ compiler is needed on a CPU."""


@dataclass
class RunSection:
    output: str = "outputs/run"
    """Folder of the run."""
    seed: int = 0
    """Seed of adapter weights, data order, augmentation and prompts."""
    validate_every: int = 1
    """Epochs between validations."""
    validate_prompts: str = "1-point"
    """Prompts that choose the best checkpoint: 1-point, box, text, ..."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    checkpoint_every_steps: int | None = None
    """Steps between further checkpoints within an epoch; none if empty."""
    keep_checkpoints: int = 2
    """How many checkpoints are kept, the newest; with one there is none to fall back on."""
    tracker: str = "none"
    """none, tensorboard, trackio or wandb."""


@dataclass
class Recipe:
    """All that makes one adapter (or another fine-tune; see model.method)."""

    name: str = "msa"
    model: ModelSection = field(default_factory=ModelSection)
    data: DataSection = field(default_factory=DataSection)
    prompts: PromptSection = field(default_factory=PromptSection)
    text: TextSection = field(default_factory=TextSection)
    loss: LossSection = field(default_factory=LossSection)
    optim: OptimSection = field(default_factory=OptimSection)
    run: RunSection = field(default_factory=RunSection)

    @property
    def is_network(self) -> bool:
        """Whether `model.method` is a network without prompts."""
        return self.model.method in BASELINES

    @property
    def uses_text(self) -> bool:
        return self.prompts.text > 0 or self.prompts.text_and_click > 0

    def to_yaml(self) -> str:
        """Every value, defaults included."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply command line overrides.

    Args:
        path: a YAML file, or a folder with `recipe.yaml`.
        overrides: `--section.key value` or `--section.key=value`, as they stand on the command line.

    Raises:
        RecipeError: missing file, broken YAML, unknown key (the nearest right one is named), or a value of the wrong
            type or out of its range.
    """
    recipe = load_yaml(Recipe, path, overrides)
    _check(recipe, path)
    return recipe


def make_recipe(values: dict[str, Any]) -> Recipe:
    """A recipe from nested dictionaries, checked."""
    recipe = filled(Recipe, values)
    _check(recipe, None)
    return recipe


def _check(recipe: Recipe, file) -> None:
    check_bounds(recipe, file)
    if recipe.data.feature_cache and recipe.data.augment:
        raise RecipeError(
            "data.feature_cache keeps one version of each image", file=file, expected="data.augment: false",
            found="data.augment: true", hint="add --data.augment false, or leave data.feature_cache empty",
        )  # fmt: skip
    if not any(getattr(recipe.prompts, name) for name in PROMPT_KINDS):
        raise RecipeError(
            "no kind of prompt has a weight", file=file, expected=f"one of prompts.{', prompts.'.join(PROMPT_KINDS)}",
            found="all 0",
        )  # fmt: skip
    if not (recipe.loss.dice or recipe.loss.bce or recipe.loss.focal):
        raise RecipeError(
            "no part of the loss has a weight", file=file, expected="loss.dice, loss.bce or loss.focal above 0",
            found="all 0",
        )  # fmt: skip
    if recipe.run.validate_prompts.startswith("text") and not recipe.uses_text:
        raise RecipeError(
            "run.validate_prompts wants texts, and the model is trained without", file=file,
            expected="prompts.text above 0", found=f"run.validate_prompts: {recipe.run.validate_prompts}",
        )  # fmt: skip
    for name, value, choices in (
        ("model.method", recipe.model.method, METHODS),
        ("data.raters", recipe.data.raters, ("each", "majority")),
        ("optim.mixed_precision", recipe.optim.mixed_precision, ("no", "bf16", "fp16")),
        ("run.tracker", recipe.run.tracker, ("none", "tensorboard", "trackio", "wandb")),
    ):
        if value not in choices:
            raise RecipeError(
                f"{name} is not one of its values", file=file, expected=", ".join(choices), found=str(value)
            )
    if recipe.uses_text and recipe.model.method != "msa":
        raise RecipeError(
            "text prompts need a projection that only MSA's adapters have", file=file,
            expected="model.method: msa, or prompts.text and prompts.text_and_click at 0",
            found=f"model.method: {recipe.model.method}",
        )  # fmt: skip
