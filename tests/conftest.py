"""What the tests share: a tiny SAM that is not degenerate, saved once, and a way to give adapters random weights."""

from __future__ import annotations

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

SIZE, PATCH, WIDTH = 64, 8, 32


def pytest_terminal_summary(terminalreporter):
    """How many broken files were read, by group and by what became of them."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, ())]
    counts = [value for each in reports for name, value in each.user_properties if name == "broken files"]
    total = sum(sum(outcomes.values()) for _, outcomes in counts)
    if counts:
        terminalreporter.write_sep("-", f"{total} broken files read")
    for group, outcomes in sorted(counts):
        terminalreporter.write_line(f"{group}: " + ", ".join(f"{n} {what}" for what, n in sorted(outcomes.items())))


@pytest.fixture(autouse=True)
def seeded():
    """The same random weights in every run; torch is not imported for tests that do without it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def quiet():
    """No progress bars of transformers."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="session")
def tiny_sam(quiet):
    """Factory: tiny_sam(seed=0, **sizes) -> SamModel of 64 px whose 5 x 5 windows pad its 8 x 8 grid.

    Relative positions are filled: transformers starts them at zero, and a test on zeros passes whatever the code does.
    """
    import torch

    from medsam_adapter.pretraining.backbone import BackboneConfig, build_backbone

    torch.set_num_threads(1)

    def make(seed: int = 0, **sizes):
        values = dict(image_size=SIZE, patch_size=PATCH, hidden_size=WIDTH, num_layers=3, num_heads=2, window_size=5)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build_backbone(BackboneConfig(**{**values, "decoder_size": 32, **sizes}))
            for name, parameter in model.named_parameters():
                if "rel_pos" in name:
                    torch.nn.init.normal_(parameter, std=0.3)
        return model.eval()

    _assert_alive(make(), torch)
    return make


def _assert_alive(model, torch) -> None:
    """The output depends on the picture and on every group of weights, so that equality of outputs says something."""
    pixels = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[[[20.0, 30.0]]]])

    @torch.no_grad()
    def masks(picture=pixels):
        return model(pixel_values=picture, input_points=points).pred_masks

    before = masks()
    assert (masks(pixels + 1) - before).abs().max() > 1e-3, "the tiny model ignores its picture"
    parts = (
        "layers.0.attn.qkv",
        "layers.0.attn.rel_pos_h",
        "layers.1.attn.rel_pos_w",
        "layers.2.mlp",
        "pos_embed",
        "mask_decoder.transformer.layers.0",
        "mask_decoder.transformer.layers.1",
        "prompt_encoder",
    )
    for part in parts:
        kept = {n: p.detach().clone() for n, p in model.named_parameters() if part in n}
        assert kept, part
        with torch.no_grad():
            for name, value in kept.items():
                model.get_parameter(name).copy_(value + 0.1 * torch.randn_like(value))
            assert (masks() - before).abs().max() > 1e-5, f"the tiny model ignores {part}"
            for name, value in kept.items():
                model.get_parameter(name).copy_(value)
    assert torch.equal(masks(), before)


@pytest.fixture
def plain_attention():
    """transformers' own encoder code: for tests that want its results to the bit."""
    from medsam_adapter.adapters.fast_layer import plain_attention

    with plain_attention():
        yield


@pytest.fixture(scope="session")
def tiny_base(tiny_sam, tmp_path_factory):
    """Folder of the tiny SAM, as `SamModel.save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("base") / "tiny-sam"
    tiny_sam().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """Folder of a CLIP text model with random weights and a tokenizer made here; 24 tokens fit its window."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from medsam_adapter.pretraining.text_model import make_tokenizer

    folder = tmp_path_factory.mktemp("text") / "tiny-clip"
    tokenizer = make_tokenizer(["the spleen", "the liver", "Where is the left kidney?"], vocabulary=300)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, projection_dim=12, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=24, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPTextModelWithProjection(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def randomise():
    """randomise(model, seed=1, std=0.1, only="msa_adapter_"): random weights for each adapter, as after training."""
    import torch

    def fill(model, seed: int = 1, std: float = 0.1, only: str = "msa_adapter_"):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in sorted(model.named_parameters()):
                if only in name:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_((std * noise).to(parameter.device, parameter.dtype))
        return model

    return fill


@pytest.fixture(scope="session")
def inputs_for():
    """inputs_for("2D") or ("3D"): pixel values, points and labels; `objects`, `slices`, `seed` may be given."""
    import torch

    def make(dims: str = "2D", objects: int = 1, slices: int = 3, batch: int = 2, points: int = 2, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        lead = (batch,) if dims == "2D" else (batch, slices)
        labels = torch.ones(*lead, objects, points, dtype=torch.long)
        labels[..., 1:] = 0
        return {
            "pixel_values": torch.randn(*lead, 3, SIZE, SIZE, generator=generator),
            "input_points": torch.rand(*lead, objects, points, 2, generator=generator) * (SIZE - 1),
            "input_labels": labels,
        }

    return make
