"""From a recipe to the objects of a run: data set, split, processor, model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from medsam_adapter.adapters.files import start_from_adapter
from medsam_adapter.data.layouts import Dataset, open_dataset
from medsam_adapter.data.sample import Case
from medsam_adapter.data.splits import Split, drawn, load_split, make_split, with_validation
from medsam_adapter.errors import CheckpointError, DataError, MSAError, RecipeError
from medsam_adapter.frozen_features import num_frozen_blocks
from medsam_adapter.inference.feature_store import FeatureStore
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.prompts.text import load_text_encoder
from medsam_adapter.prompts.text_bank import TextBank
from medsam_adapter.prompts.text_sampler import TextSampler, TextShares
from medsam_adapter.training.methods import WHOLE, make_trainable, starting_point
from medsam_adapter.training.recipe import DataSection, Recipe


@dataclass
class TrainingData:
    """A data set with its split into case lists."""

    dataset: Dataset
    split: Split
    train: list[Case]
    val: list[Case]
    test: list[Case]
    how: str  # it was split

    @property
    def notes(self) -> list[str]:
        """What is to be said of the data before anything is learned from it; a sentence each."""
        parts = f"{len(self.train)} cases to train on, {len(self.val)} to validate, {len(self.test)} to test"
        return [*self.dataset.notes, f"{parts}: {self.how}."]


def open_data(section: DataSection) -> TrainingData:
    """Open the data set of a recipe and split it by patient.

    Raises:
        RecipeError: no data path.
        DataError: what the layout or the split finds wrong.
    """
    if not section.path:
        raise RecipeError("the recipe names no data", expected="data.path", hint="add --data.path FOLDER")
    dataset = open_dataset(section.path, section.layout, require_labels=False, channel=section.channel)
    labelled = dataset.labelled
    if not labelled:
        raise DataError(
            "no case has a label map", file=section.path, expected="masks to learn from", found="images only"
        )
    if section.split:
        split, how = load_split(section.split, dataset.cases), f"split by {section.split}"
    elif dataset.official_split and section.official_split:
        split = with_validation(dataset.official_split, labelled, section.val_fraction, section.split_seed)
        is_drawn = split.get("val") and not dataset.official_split.get("val")
        how = "the data set's official split" + (
            f", validation drawn with seed {section.split_seed}" if is_drawn else ""
        )
    else:
        fractions = {"val": section.val_fraction, "test": section.test_fraction}
        split = make_split(labelled, {"train": 1 - sum(fractions.values()), **fractions}, section.split_seed)
        how = f"drawn by patient with seed {section.split_seed}"
    cases = {case.case_id: case for case in labelled}
    parts = {part: [cases[i] for i in split.get(part, []) if i in cases] for part in ("train", "val", "test")}
    if not parts["train"]:
        raise DataError(
            "the split has no training case", file=section.split or section.path, expected="train: [case ids]"
        )
    train = drawn(parts["train"], section.max_train_cases, section.split_seed)
    val = drawn(parts["val"], section.max_val_cases, section.split_seed)
    return TrainingData(dataset, split, train, val, parts["test"], how)


def make_model(recipe: Recipe, dataset: Dataset) -> MSAModel:
    """The base, frozen but for what `model.method` trains; the caller seeds torch.

    Where `model.base` is itself an adapter (a run folder, e.g. of `msa pretrain ssl`), the new one starts from its
    weights; see `methods.starting_point`.

    Raises:
        CheckpointError: a base that is not there, or an adapter of another form or method.
        RecipeError: fields of `model.adapter` or `model.lora` that do not exist or do not fit.
    """
    targets = target_names(recipe, dataset)
    try:
        width = load_text_encoder(recipe.text.model).width if recipe.uses_text else None
        start = starting_point(recipe, width)
        model = MSAModel.from_base(
            start.base,
            image_size=start.image_size,
            revision=start.revision,
            id2label={i: name for i, name in enumerate(["background", *targets])},
        )
    except MSAError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a folder whose config is of no model
        raise CheckpointError(
            "model.base cannot be opened",
            file=recipe.model.base,
            expected="sam-tiny, a Hub id such as facebook/sam-vit-base, or a folder with a SAM",
            found=(str(error).strip().splitlines() or [type(error).__name__])[0],
        ) from error
    make_trainable(model, start.config, recipe.model.method)
    if start.adapter:
        start_from_adapter(model, start.adapter)
    return model


def prepare_for_training(model: MSAModel, recipe: Recipe, device_type: str) -> None:
    """What a recipe and a device ("cpu", "cuda") change in how a model computes."""
    # What saves all weights keeps them in full: a file in bf16 would round what was trained in fp32.
    if recipe.optim.mixed_precision == "bf16" and recipe.model.method not in WHOLE:
        keep_frozen_encoder_in(model, torch.bfloat16)
    if recipe.optim.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if device_type == "cpu":  # torch's fused attention is slower than its parts for the decoder's few tokens
        model.mask_decoder.config._attn_implementation = "eager"


def target_names(recipe: Recipe, dataset: Dataset) -> list[str]:
    """Names of what is learned."""
    return recipe.data.targets or list(dataset.targets) or ["object"]


def make_text_sampler(recipe: Recipe, dataset: Dataset, say: Callable[[str], None] | None = None) -> TextSampler | None:
    """What may be said of the training samples; None if the recipe trains without texts.

    Args:
        say: told of labels for which the bank has plain templates only.

    Raises:
        DataError: a bank file that breaks a rule, or instance labels, which have no names.
    """
    if not recipe.uses_text:
        return None
    if not dataset.targets:
        raise DataError(
            "the labels have no names, so no sentence can name them", file=dataset.root,
            expected="named labels", found="numbered objects" if dataset.instances else "none",
            hint="name them in labels.json, or set prompts.text and prompts.text_and_click to 0",
        )  # fmt: skip
    texts = TextBank.load(recipe.text.bank).for_labels(target_names(recipe, dataset))
    if say:  # of several processes only one speaks
        for note in texts.notes:
            say(note)
    shares = TextShares(recipe.text.elsewhere, recipe.text.union, recipe.text.absent)
    return TextSampler(texts, dataset.targets, load_text_encoder(recipe.text.model), shares)


def keep_frozen_encoder_in(model: MSAModel, dtype: torch.dtype) -> None:
    """Store the encoder's frozen weights in a shorter type; what is trained, prompts and decoder stay as they are."""
    for parameter in model.vision_encoder.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def open_feature_store(recipe: Recipe, model: MSAModel) -> FeatureStore | None:
    """Where frozen features are kept; None if the recipe keeps none.

    Raises:
        RecipeError: if the first block is trained or has an adapter, so that there is nothing to keep.
    """
    if not recipe.data.feature_cache:
        return None
    if not num_frozen_blocks(model):
        raise RecipeError(
            "data.feature_cache has nothing to keep: training starts in the first block of the encoder",
            expected="model.adapter.use_encoder: false, or encoder_layers: [the last few], or model.method: decoder",
            found=f"model.method: {recipe.model.method}, model.adapter: {recipe.model.adapter}",
            hint="leave data.feature_cache empty, or move the adapters up",
        )
    return FeatureStore(recipe.data.feature_cache, model)


def check_flip(data: DataSection, orientation: str | None) -> None:
    """Raises RecipeError if `data.flip`, which mirrors the x axis of volumes, would not swap left and right."""
    if data.augment and data.flip and orientation and orientation[0] not in "LR":
        raise RecipeError(
            "data.flip mirrors left and right", expected="data.orientation with L or R first, such as LPS",
            found=f"{orientation}, whose slices run along {orientation[0]}",
            hint="--data.flip false, or another --data.orientation",
        )  # fmt: skip


def make_processor(recipe: Recipe, model: MSAModel, dataset: Dataset) -> MSAProcessor:
    """The processor that goes with the run; what the recipe leaves open is as the layout advises."""
    data = recipe.data
    intensity = data.intensity or (None if data.window_hu else dataset.intensity)
    orientation = data.orientation or dataset.orientation or "LPS"
    return MSAProcessor.from_model(model, intensity=intensity, window_hu=data.window_hu, orientation=orientation)
