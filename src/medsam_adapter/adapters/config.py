"""`MSAAdapterConfig`: what is adapted and how, the content of `adapter_config.json`."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Optional, Union

from peft import PeftConfig
from transformers.activations import ACT2FN

PROMPT_FUSIONS = ("add", "concat", "hyper", "none")
COMPATIBILITIES = ("official",)
RELATIVE_POSITIONS = ("all", "windowed", "none")


class MSAPeftType(str, enum.Enum):  # noqa: UP042 (a StrEnum prints as its value; PEFT's own prints as a name)
    """PEFT's own enum is closed to other packages; a string enum of our own passes everywhere PEFT looks a type up."""

    MSA_ADAPTER = "MSA_ADAPTER"


@dataclass
class MSAAdapterConfig(PeftConfig):
    """Configuration of the Medical SAM Adapter (https://arxiv.org/abs/2304.12620).

    The attributes from `target_modules` to `bias` are those every PEFT method has; leave them at their defaults unless
    a model's blocks have other names than `SamModel`'s.
    """

    bottleneck_ratio: float = field(
        default=1 / 16, metadata={"help": "Width of an adapter's bottleneck as a share of the block's width."}
    )
    mlp_scale: float = field(
        default=0.5, metadata={"help": "Factor s of the adapters that lie parallel to an MLP, in encoder and decoder."}
    )
    activation: str = field(default="relu", metadata={"help": "Activation between the two projections."})
    use_encoder: bool = field(default=True, metadata={"help": "Adapters in the image encoder's blocks."})
    use_decoder: bool = field(default=True, metadata={"help": "Adapters in the mask decoder's two-way blocks."})
    encoder_layers: Optional[list[int]] = field(
        default=None, metadata={"help": "Encoder blocks that get adapters, counted from 0; None for all."}
    )
    decoder_layers: Optional[list[int]] = field(
        default=None, metadata={"help": "Decoder blocks that get adapters, counted from 0; None for all."}
    )
    use_depth: bool = field(
        default=False, metadata={"help": "The depth branch for volumes (SD-Trans): slices attend to each other."}
    )
    num_slices: int = field(default=8, metadata={"help": "Slices that a volume is encoded in at a time."})
    depth_bias: bool = field(
        default=False,
        metadata={"help": "A learned bias for the distance of two slices in the depth attention, zero at the start."},
    )
    prompt_fusion: str = field(
        default="add", metadata={"help": "How prompts enter the decoder's first adapter: add, concat, hyper, none."}
    )
    hyper_depth: int = field(default=1, metadata={"help": "Prompt-made layers in the `hyper` fusion."})
    train_mask_decoder: bool = field(
        default=False,
        metadata={"help": "Train the whole mask decoder (as the official code does) in place of decoder adapters."},
    )
    use_text: bool = field(default=False, metadata={"help": "Text prompts: a projection of a text model's embeddings."})
    text_model: str = field(
        default="openai/clip-vit-base-patch16",
        metadata={"help": "Frozen CLIP text model: Hub id, folder, or clip-tiny, which ships with the package."},
    )
    text_width: int = field(default=512, metadata={"help": "Width of the text model's embeddings."})
    text_tokens: int = field(default=1, metadata={"help": "Prompt tokens that a sentence becomes."})
    compatibility: Optional[str] = field(
        default=None,
        metadata={"help": "official: encoder blocks compute what the authors' public code did (docs/convert.md)."},
    )
    relative_positions: str = field(
        default="all",
        metadata={
            "help": "With compatibility: encoder blocks whose attention knows SAM's relative positions: all, windowed "
            "(not those of global attention), none. Versions of the public code had lost them."
        },
    )
    swap_clicks: bool = field(
        default=False,
        metadata={"help": "With compatibility: SAM's prompt encoder gets a click as (y, x), as that code gave it."},
    )
    target_modules: Optional[Union[list[str], str]] = field(
        default=None, metadata={"help": "Made from use_*; see above."}
    )
    exclude_modules: Optional[Union[list[str], str]] = field(default=None, metadata={"help": "Blocks left alone."})
    modules_to_save: Optional[list[str]] = field(default=None, metadata={"help": "Modules trained and saved whole."})
    layers_to_transform: Optional[Union[list[int], int]] = field(
        default=None, metadata={"help": "PEFT's layer filter."}
    )
    layers_pattern: Optional[Union[list[str], str]] = field(default=None, metadata={"help": "Belongs to the filter."})
    bias: str = field(default="none", metadata={"help": "PEFT's bias switch; biases of the base stay frozen."})

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = MSAPeftType.MSA_ADAPTER
        if not 0 < self.bottleneck_ratio <= 4:
            raise ValueError(f"bottleneck_ratio must lie in (0, 4], found {self.bottleneck_ratio}")
        if self.num_slices < 1:
            raise ValueError(f"num_slices must be at least 1, found {self.num_slices}")
        if self.text_width < 1 or self.text_tokens < 1:
            raise ValueError(
                f"text_width and text_tokens must be at least 1, found {self.text_width} and {self.text_tokens}"
            )
        if self.hyper_depth < 1:
            raise ValueError(f"hyper_depth must be at least 1, found {self.hyper_depth}")
        if self.prompt_fusion not in PROMPT_FUSIONS:
            raise ValueError(f"prompt_fusion must be one of {', '.join(PROMPT_FUSIONS)}, found {self.prompt_fusion!r}")
        if self.activation not in ACT2FN:
            raise ValueError(
                f"activation must be one of transformers' ({', '.join(ACT2FN)}), found {self.activation!r}"
            )
        self._check_compatibility()
        if self.bias != "none":
            raise ValueError("MSA adapters leave the base's biases frozen: bias must be 'none'")
        if self.train_mask_decoder:
            self.use_decoder = False  # a decoder that is trained whole and copied per adapter has no use for adapters
            self.modules_to_save = sorted({*(self.modules_to_save or []), "mask_decoder"})
        if self.target_modules is None:
            self.target_modules = self._target_pattern()

    def _check_compatibility(self) -> None:
        if self.compatibility not in (None, *COMPATIBILITIES):
            raise ValueError(f"compatibility must be None or {COMPATIBILITIES[0]!r}, found {self.compatibility!r}")
        if self.relative_positions not in RELATIVE_POSITIONS:
            raise ValueError(
                f"relative_positions must be one of {', '.join(RELATIVE_POSITIONS)}, found {self.relative_positions!r}"
            )
        if self.compatibility is None and (self.relative_positions != "all" or self.swap_clicks):
            raise ValueError("relative_positions and swap_clicks belong to compatibility: official")
        if self.compatibility is not None and self.depth_bias:
            raise ValueError("depth_bias does not go with compatibility: the folded depth has SAM's 2-D positions")

    def _target_pattern(self) -> str:
        """A regular expression for the names of the blocks to wrap."""
        parts = []
        if self.use_encoder:
            parts.append(rf"vision_encoder\.layers\.{_numbers(self.encoder_layers)}")
        if self.use_decoder:
            parts.append(rf"mask_decoder\.transformer\.layers\.{_numbers(self.decoder_layers)}")
        if self.use_text or self.swap_clicks:
            parts.append("prompt_encoder")
        if not parts:
            raise ValueError("there is nothing to adapt: switch on use_encoder, use_decoder or use_text")
        return rf"(.*\.)?({'|'.join(parts)})"


def _numbers(layers: list[int] | None) -> str:
    return r"\d+" if layers is None else f"({'|'.join(str(int(i)) for i in layers)})"
