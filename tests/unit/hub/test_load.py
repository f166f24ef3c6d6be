"""Opening repos of the Hub: by revision, from the cache, once; and what is no MSA repo says what it is."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForMaskGeneration, AutoProcessor, SamModel

from fake_hub import TOKEN
from medsam_adapter.configuration_msa import MSAConfig
from medsam_adapter.errors import CheckpointError
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.processing_msa import MSAProcessor

BASE, REPO = "org/base", "org/msa"


@pytest.fixture
def base(hub, tiny_base):
    hub.add(BASE, tiny_base)
    return BASE


@pytest.fixture
def versions(hub, base, make_run):
    """The repo has two versions: the tag v1 (2-D, percentile) and main (3-D, a CT window)."""
    first = make_run("first", base, seed=1, labels={0: "background", 1: "liver"})
    second = make_run("second", base, seed=2, use_depth=True, intensity="ct:soft-tissue")
    hub.repo_v1 = hub.add(REPO, first)
    hub.add(REPO, second)
    hub.repo(REPO).refs["v1"] = hub.repo_v1
    return first, second


@torch.no_grad()
def masks(model, inputs):
    return model(**inputs, multimask_output=False).pred_masks


def same(model, folder, inputs) -> None:
    want = masks(MSAModel.from_pretrained(folder).requires_grad_(False), inputs)
    torch.testing.assert_close(masks(model.requires_grad_(False), inputs), want, rtol=1e-5, atol=1e-6)


def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


# -- doors -------------------------------------------------------------------------------------------------------------


def test_by_branch_tag_and_commit(hub, versions, inputs_for):
    first, second = versions
    inputs = inputs_for("2D")
    assert not torch.allclose(*(masks(MSAModel.from_pretrained(f), inputs) for f in versions))
    for revision, folder in ((None, second), ("main", second), ("v1", first), (hub.repo_v1, first)):
        model = MSAModel.from_pretrained(REPO, revision=revision)
        same(model, folder, inputs)
        assert model.config.id2label == MSAModel.from_pretrained(folder).config.id2label


def test_the_processor_is_of_the_same_revision(versions):
    assert MSAPredictor.from_pretrained(REPO, "cpu").processor.intensity == "ct:soft-tissue"
    assert MSAPredictor.from_pretrained(REPO, "cpu", revision="v1").processor.intensity == "percentile"


def test_arguments_of_the_hub_reach_repo_and_base(hub, versions, inputs_for, tmp_path):
    hub.repo(REPO).private = hub.repo(BASE).private = True
    model = MSAModel.from_pretrained(REPO, token=TOKEN, cache_dir=tmp_path / "elsewhere")
    same(model, versions[1], inputs_for("2D"))
    assert {p.name for p in (tmp_path / "elsewhere").glob("models--*")} == {"models--org--base", "models--org--msa"}
    MSAModel.from_pretrained(REPO, cache_dir=tmp_path / "elsewhere", local_files_only=True)


def test_offline_from_the_cache(hub, versions, inputs_for, monkeypatch):
    for revision in (None, "v1"):
        MSAPredictor.from_pretrained(REPO, "cpu", revision=revision)
    offline(monkeypatch)
    asked = len(hub.log)
    for revision, folder in ((None, versions[1]), ("v1", versions[0])):
        opened = MSAPredictor.from_pretrained(REPO, "cpu", revision=revision)
        same(opened.model, folder, inputs_for("2D"))
        assert opened.processor.intensity == MSAPredictor.from_pretrained(folder, "cpu").processor.intensity
    assert len(hub.log) == asked


def test_offline_without_its_processor_is_refused(hub, versions, monkeypatch):
    """Another intensity window in silence would be worse than an error."""
    MSAModel.from_pretrained(REPO)
    offline(monkeypatch)
    MSAModel.from_pretrained(REPO)
    with pytest.raises(CheckpointError, match="preprocessor_config.json cannot be read"):
        MSAPredictor.from_pretrained(REPO, "cpu")


def test_the_base_is_fetched_once(hub, versions, base, make_run):
    hub.add("org/other", make_run("third", base, seed=3))
    hub.log.clear()
    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    for name in (REPO, "org/other", REPO):
        MSAModel.from_pretrained(name)
    assert hub.downloads(BASE, "model.safetensors") == 1 and hub.downloads(REPO, "adapter_model.safetensors") == 1


def test_the_three_doors(versions, inputs_for):
    inputs = inputs_for("2D")
    for revision, folder in ((None, versions[1]), ("v1", versions[0])):
        same(MSAModel.from_pretrained(REPO, revision=revision), folder, inputs)
        peft = PeftModel.from_pretrained(SamModel.from_pretrained(BASE), REPO, revision=revision).eval()
        same(peft, folder, inputs)
        sam = SamModel.from_pretrained(BASE)
        sam.load_adapter(REPO, adapter_kwargs={"revision": revision} if revision else None)
        same(sam, folder, inputs)


def test_the_auto_classes(versions, inputs_for):
    first, second = versions
    assert isinstance(AutoConfig.from_pretrained(REPO), MSAConfig)
    assert AutoConfig.from_pretrained(REPO, revision="v1").id2label == {0: "background", 1: "liver"}
    for auto in (AutoProcessor, AutoImageProcessor):
        assert isinstance(auto.from_pretrained(REPO), MSAProcessor)
        assert auto.from_pretrained(REPO, revision="v1").intensity == "percentile"
    same(AutoModel.from_pretrained(REPO), second, inputs_for("2D"))  # a SamModel with the adapter
    for auto in (AutoModel, AutoModelForMaskGeneration):
        for revision, folder in ((None, second), ("v1", first)):
            config = AutoConfig.from_pretrained(REPO, revision=revision)
            model = auto.from_pretrained(REPO, config=config, revision=revision)
            assert type(model) is MSAModel
            same(model, folder, inputs_for("2D"))


def test_a_full_repo(hub, versions, inputs_for, tmp_path):
    model = MSAModel.from_pretrained(versions[1])
    model.save_pretrained(tmp_path / "full", full=True)
    hub.add("org/full", tmp_path / "full")
    hub.log.clear()
    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    models = [MSAModel.from_pretrained("org/full"), AutoModel.from_pretrained("org/full")]
    assert not any(BASE in path for _, path in hub.log)
    for opened in models:
        assert type(opened) is MSAModel
        same(opened, versions[1], inputs_for("3D"))


# -- what it is not ----------------------------------------------------------------------------------------------------


def refused(name, text: str, **kwargs) -> CheckpointError:
    with pytest.raises(CheckpointError, match=text) as caught:
        MSAModel.from_pretrained(name, **kwargs)
    assert str(name) in str(caught.value) and caught.value.hint
    return caught.value


def edited(hub, run, tmp_path, name: str = "org/odd", **changes):
    folder = shutil.copytree(run, tmp_path / "odd")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    hub.add(name, folder)
    return folder


def test_another_method_of_peft(hub, base, tmp_path):
    config = IA3Config(target_modules=["qkv"], feedforward_modules=[])
    get_peft_model(SamModel.from_pretrained(base), config).save_pretrained(tmp_path / "ia3")
    hub.add("org/ia3", tmp_path / "ia3")
    error = refused("org/ia3", "another kind of adapter")
    assert "IA3" in error.found and "PeftModel" in error.hint


def test_a_lora_of_a_language_model(hub, base, tmp_path):
    get_peft_model(SamModel.from_pretrained(base), LoraConfig(target_modules=["qkv"])).save_pretrained(tmp_path / "l")
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "config.json").write_text('{"model_type": "llama"}')
    hub.add("org/llm", tmp_path / "llm")
    file = tmp_path / "l" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "org/llm"}))
    hub.add("org/lora", tmp_path / "l")
    error = refused("org/lora", "another kind of adapter")
    assert "LORA" in error.found and "llama" in error.found


def test_a_base_that_is_gone(hub, versions, tmp_path):
    edited(hub, versions[0], tmp_path, base_model_name_or_path="org/gone")
    assert "org/gone" in refused("org/odd", "cannot be opened").problem


def test_a_base_of_another_width(hub, versions, tiny_sam, tmp_path):
    tiny_sam(hidden_size=64, num_heads=4).save_pretrained(tmp_path / "wide")
    hub.add("org/wide", tmp_path / "wide")
    edited(hub, versions[0], tmp_path, base_model_name_or_path="org/wide")
    assert "another shape" in refused("org/odd", "does not fit its base").found


def test_a_pickled_adapter(hub, versions, tmp_path):
    folder = shutil.copytree(versions[0], tmp_path / "pickled")
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    hub.add("org/pickled", folder)
    for name in ("org/pickled", folder):
        error = refused(name, "pickle")
        assert error.found == "adapter_model.bin" and "safetensors" in error.expected
        assert not hub.downloads("org/pickled", "adapter_model.bin")
        with pytest.raises(CheckpointError, match="pickle"):
            MSAModel.from_pretrained(versions[0]).load_adapter(name, adapter_name="b")


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle was run')",))


def test_a_pickled_base_is_not_even_read(hub, versions, tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save({"x": Bomb()}, folder / "pytorch_model.bin")
    hub.add("org/pickled", folder)
    for name in ("org/pickled", folder):
        assert refused(name, "pickle").found == "pytorch_model.bin"
        with pytest.raises(CheckpointError, match="pickle"):
            MSAModel.from_pretrained(name, use_safetensors=False)
    assert not hub.downloads("org/pickled", "pytorch_model.bin")
    edited(hub, versions[0], tmp_path, base_model_name_or_path="org/pickled")
    with pytest.raises(CheckpointError, match="pickle"):
        MSAModel.from_pretrained("org/odd")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_a_checkpoint_file(tmp_path, suffix):
    file = tmp_path / f"sam_vit_b_01ec64{suffix}"
    torch.save({"x": Bomb()}, file)
    assert f"msa convert {file}" in refused(file, "pickle").hint


def test_a_repo_that_does_not_exist(hub):
    with pytest.raises(OSError, match="org/nowhere"):
        MSAModel.from_pretrained("org/nowhere")
    assert ("GET", "/org/nowhere/resolve/main/pytorch_model.bin") not in hub.log
