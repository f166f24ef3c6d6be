"""`msa push`: what goes up, what never does, what is refused, and that it is one commit or none."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fake_hub import TOKEN
from medsam_adapter.cli.main import run as msa
from medsam_adapter.errors import CheckpointError, OutputError
from medsam_adapter.hub.card import write_card
from medsam_adapter.hub.private_words import refuse_private_words
from medsam_adapter.hub.publish import PushOptions, push_run, push_space, stage_run
from medsam_adapter.modeling_msa import MSAModel

REPO = "org/msa-liver"
OWN_FILES = {
    "README.md", "adapter_config.json", "adapter_model.safetensors", "best.json", "config.json", "data.json",
    "metrics.jsonl", "preprocessor_config.json", "recipe.yaml", "split.json", "versions.json",
}  # fmt: skip


@pytest.fixture
def run(shipped, make_run):
    return make_run()


def push(run, **changes):
    return push_run(run, PushOptions(**{"repo_id": REPO, **changes}))


def refused(call, text: str) -> CheckpointError:
    with pytest.raises(CheckpointError, match=text) as caught:
        call()
    assert caught.value.hint
    return caught.value


# -- what goes up ------------------------------------------------------------------------------------------------------


def test_one_commit_with_the_files_of_the_run_and_no_others(hub, run, add_result):
    add_result(run)
    address, staged = push(run)
    repo = hub.repo(REPO)
    assert repo.messages == ["initial commit", "Publish msa-liver"] and address.endswith(repo.refs["main"])
    results = {f"evaluation/msa-liver_1-point_volume/{n}" for n in ("results.json", "results.csv", "prompts.json")}
    assert set(repo.files) == OWN_FILES | results | {".gitattributes"} == set(staged.files) | {".gitattributes"}
    assert repo.files["adapter_model.safetensors"] == (run / "adapter_model.safetensors").read_bytes()
    assert (run / "checkpoint.pt").exists() and not repo.private


def test_no_path_of_this_machine_and_no_secret(hub, run, add_result):
    add_result(run)
    push(run)
    everything = b"\n".join(hub.repo(REPO).files.values())
    for word in (b"/home/doctor", b"secret project", b"outputs/deep", b"optimizer state", b"a patient", TOKEN.encode()):
        assert word not in everything, word
    recipe = yaml.safe_load(hub.repo(REPO).files["recipe.yaml"])
    assert recipe["data"]["path"] == "scans" and recipe["data"]["split"] == "split.json"
    assert recipe["run"]["output"] == "msa-liver" and recipe["model"]["base"] == "sam-tiny"
    results = json.loads(hub.repo(REPO).files["evaluation/msa-liver_1-point_volume/results.json"])
    assert results["settings"]["data"] == "scans"


@pytest.mark.parametrize(
    ("file", "line", "what"),
    [
        ("metrics.jsonl", '{"note": "see /home/doctor/patients/Smith.nii"}', "a path"),
        ("metrics.jsonl", '{"note": "C:\\\\Users\\\\Smith\\\\scan"}', "a path"),
        ("metrics.jsonl", '{"token": "hf_AbCdEfGhIjKlMnOpQrStUvWxYz"}', "a secret"),
        ("metrics.jsonl", '{"key": "value of WANDB_API_KEY"}', "a secret"),
        ("split.json", '{"train": ["x ~/scans/a"]}', "a path"),
    ],
)
def test_private_words_stop_it_before_anything_is_sent(hub, run, monkeypatch, file, line, what):
    monkeypatch.setenv("WANDB_API_KEY", "value of WANDB_API_KEY")
    (run / file).write_text(line + "\n")
    error = refused(lambda: push(run), f"line . holds {what}")
    assert str(error.file) == file and hub.repos == {}
    assert "hf_AbC" not in str(error)


@pytest.mark.parametrize(
    "text", ["Dice and/or IoU", "see https://arxiv.org/abs/2304.12620", "km/h, 3/4/5", "a / b", "</p>"]
)
def test_what_is_no_path_passes(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    refuse_private_words(tmp_path)


def test_private(hub, run):
    push_run(run, PushOptions(REPO), private=True)
    assert hub.repo(REPO).private


def test_a_later_push_replaces_the_earlier_and_leaves_foreign_files(hub, run, add_result):
    add_result(run)
    push(run)
    repo = hub.repo(REPO)
    repo.commit(repo.files | {"picture.png": b"mine"}, "a person")
    shutil.rmtree(run / "evaluation")
    push(run, full=True)
    names = set(repo.files)
    assert "model.safetensors" in names and "picture.png" in names
    assert not names & {"adapter_config.json", "adapter_model.safetensors"}
    assert not any(name.startswith("evaluation/") for name in names)
    push(run)
    assert "model.safetensors" not in repo.files and "adapter_config.json" in repo.files


def test_the_run_folder_is_left_as_it_was(hub, run, add_result):
    add_result(run)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    push(run, dtype="bf16")
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}


def test_full_opens_without_its_base(hub, run, shipped, tiny_base, inputs_for, monkeypatch):
    push(run, full=True)
    want = MSAModel.from_pretrained(run)(**inputs_for("2D")).pred_masks
    from medsam_adapter import backbones

    monkeypatch.setitem(backbones.EMBEDDED, "sam-tiny", tiny_base / "gone")
    opened = MSAModel.from_pretrained(REPO)
    torch.testing.assert_close(opened(**inputs_for("2D")).pred_masks, want, rtol=1e-5, atol=1e-6)
    assert opened.config.id2label == {0: "background", 1: "liver", 2: "spleen"}


def test_bf16_halves_the_file(hub, run, inputs_for):
    push(run, dtype="bf16")
    sizes = [len(hub.repo(REPO).files["adapter_model.safetensors"]), (run / "adapter_model.safetensors").stat().st_size]
    assert sizes[0] < 0.62 * sizes[1]  # the header of so small a file counts
    opened, want = MSAModel.from_pretrained(REPO), MSAModel.from_pretrained(run)
    assert {p.dtype for p in opened.parameters()} == {torch.float32}
    got, want = (model(**inputs_for("2D")).pred_masks for model in (opened, want))
    assert 0 < (got - want).abs().max() < 0.02 * want.abs().max()


def test_staging_shows_it_and_sends_nothing(hub, run, tmp_path, capsys):
    assert msa(["push", str(run), "--repo", REPO, "-o", str(tmp_path / "look")]) == 0
    assert {file.name for file in (tmp_path / "look").iterdir()} == OWN_FILES and hub.repos == {} == dict(hub.log)
    assert "nothing is published" in capsys.readouterr().out
    assert msa(["push", str(run), "--repo", REPO, "-o", str(tmp_path / "look")]) == 2  # in use already


def test_staging_writes_all_or_nothing(shipped, make_run, tmp_path):
    run = make_run(base="sam-tiny")
    (run / "split.json").write_text('{"train": ["/home/doctor/a"]}, broken')
    with pytest.raises(ValueError):
        stage_run(run, tmp_path / "look", PushOptions(REPO))
    assert not (tmp_path / "look").exists()


def test_a_full_disk_while_staging_is_named_and_leaves_no_folder(hub, run, tmp_path, monkeypatch):
    copy = shutil.copyfile

    def full(source, target, **how):
        copy(source, target, **how)
        if tmp_path / "here" in target.parents and target.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match="staged: cannot be written: the disk is full"):
        stage_run(run, tmp_path / "here" / "staged", PushOptions(REPO))
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("first", ["/home/doctor/secret project/msa-first", "outputs/msa-first", "org/msa-first"])
def test_a_run_that_started_from_an_adapter_says_so(hub, run, first):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["model"]["base"] = first
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    push(run)
    files = hub.repo(REPO).files
    card = files["README.md"].decode()
    assert "started from the adapter `msa-first`" in card and "on `sam-tiny`" in card and "make it again" not in card
    assert yaml.safe_load(files["recipe.yaml"])["model"]["base"] == "msa-first"
    assert b"doctor" not in b"".join(files.values()) and "started from" in write_card(run).read_text()


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_run_without_scores(hub, shipped, make_run, add_result):
    run = make_run(val_dice=None)
    assert "msa evaluate" in refused(lambda: push(run), "no scores").hint
    add_result(run, model="sam-tiny", sha256="0" * 64)
    assert refused(lambda: push(run), "no scores").found == "results of other models only"
    assert hub.repos == {}
    _, staged = push(run, force=True)
    assert any("nothing was measured" in note for note in staged.notes)
    assert "Nothing was measured" in hub.repo(REPO).files["README.md"].decode()


def test_a_result_from_elsewhere_counts(hub, shipped, make_run, add_result, tmp_path):
    run = make_run(val_dice=None)
    add_result(run)
    elsewhere = shutil.move(run / "evaluation", tmp_path / "elsewhere")
    for given in (elsewhere, tmp_path / "elsewhere" / "results.json"):
        push(run, results=[given])
        assert "0.700" in hub.repo(REPO).files["README.md"].decode()


def test_results_of_other_weights(hub, run, add_result):
    add_result(run, sha256="0" * 64)
    error = refused(lambda: push(run), "other weights")
    assert error.found == "weights 0000000000" and hub.repos == {}
    _, staged = push(run, force=True)
    assert any("left out" in note for note in staged.notes)
    assert not any(name.startswith("evaluation") for name in hub.repo(REPO).files)


def test_an_unknown_licence(hub, tiny_base, make_run, tmp_path):
    hub.add("org/base", tiny_base)
    run = make_run(base="org/base")
    assert "--licence" in refused(lambda: push(run), "licence of its base, org/base").hint
    assert "model" not in {kind for kind, name in hub.repos if name == REPO}
    push(run, licence="CC BY-NC 4.0")
    card = hub.repo(REPO).files["README.md"].decode()
    assert "license: cc-by-nc-4.0\n" in card and "licence unknown" in card
    push(run, licence="My own terms (v2)")
    card = hub.repo(REPO).files["README.md"].decode()
    assert "license: other\nlicense_name: my-own-terms-v2\n" in card
    _, staged = push(run, force=True)
    assert any("not known" in note for note in staged.notes)
    assert "license:" not in hub.repo(REPO).files["README.md"].decode()


def test_a_licence_that_the_base_states(hub, tiny_base, make_run, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    hub.add("org/base", folder)
    push(make_run(base="org/base"))
    card = hub.repo(REPO).files["README.md"].decode()
    assert "license: mit\n" in card and "base_model: org/base\n" in card and "base_model_relation: adapter\n" in card


def test_a_base_on_this_disk_only(hub, tiny_base, make_run):
    run = make_run(base=tiny_base)
    error = refused(lambda: push(run, licence="mit"), "base lies in a folder of this machine")
    assert "--full" in error.hint and "--base" in error.hint and hub.repos == {}
    push(run, licence="mit", base="org/base")
    files = hub.repo(REPO).files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/base"
    assert str(tiny_base).encode() not in b"".join(files.values())
    push(run, licence="mit", full=True)
    files = hub.repo(REPO).files
    assert str(tiny_base).encode() not in b"".join(files.values()) and "model.safetensors" in files
    MSAModel.from_pretrained(REPO)


def test_a_text_model_on_this_disk_only(hub, shipped, make_run, tiny_clip):
    run = make_run(use_text=True, text_model=tiny_clip, text_width=12)
    for full in (False, True):
        refused(lambda full=full: push(run, full=full, force=True), "text model lies in a folder")
        refused(lambda full=full: MSAModel.from_pretrained(run).push_to_hub(REPO, full=full), "text model lies")
    assert hub.repos == {}


@pytest.mark.parametrize("missing", ["best.json", "recipe.yaml", "config.json", "adapter_model.safetensors"])
def test_not_a_finished_run(hub, run, missing):
    (run / missing).unlink()
    assert missing in refused(lambda: push(run), "not the folder of a finished run").found


@pytest.mark.parametrize("is_mixed", [False, True])
def test_a_network_without_prompts(hub, run, add_result, tmp_path, capsys, is_mixed):
    """Beside an adapter it is what opens, so the folder's scores are not the adapter's."""
    (run / "network.json").write_text("{}")
    shutil.copyfile(run / "adapter_model.safetensors", run / "network.safetensors")
    if not is_mixed:
        for name in ("config.json", "adapter_config.json", "adapter_model.safetensors"):
            (run / name).unlink()
    add_result(run)
    error = refused(lambda: push(run), "a network without prompts, and such are not published")
    assert ("beside" in error.found) == is_mixed and hub.repos == {}
    assert msa(["zoo", "--local", str(tmp_path / "runs")]) == 0
    assert "network without prompts" in capsys.readouterr().err


def test_no_folder_and_a_broken_file(hub, run, tmp_path):
    assert refused(lambda: push(tmp_path / "nowhere"), "not the folder").found == "no such folder"
    (run / "best.json").write_text("{")
    refused(lambda: push(run), "cannot be read")


@pytest.mark.parametrize("options", [{"full": True}])
def test_another_precision_for_a_whole_model(hub, run, options):
    refused(lambda: push(run, dtype="bf16", **options), "precision it has")


@pytest.mark.parametrize("name", ["org/a/b", "org/with space", "org/-x", ""])
def test_a_name_that_the_hub_does_not_take(hub, run, name):
    assert "ORG/NAME" in refused(lambda: push(run, repo_id=name), "cannot be put on the Hub").expected


# -- when it fails -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["/lfs/", "/commit/", "/preupload/", "/repos/create"])
@pytest.mark.parametrize("status", [400, 0])
def test_an_interrupted_upload_publishes_nothing_and_can_be_repeated(hub, run, monkeypatch, where, status):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's own repetitions
    hub.fail = lambda method, path: status if where in path else None
    refused(lambda: push(run), "cannot be put on the Hub")
    assert all(set(repo.files) == {".gitattributes"} for repo in hub.repos.values())
    hub.fail = lambda method, path: None
    push(run)
    assert set(hub.repo(REPO).files) == OWN_FILES | {".gitattributes"}
    assert hub.repo(REPO).messages == ["initial commit", "Publish msa-liver"]


def test_an_interrupted_second_push_leaves_the_first(hub, run, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    push(run)
    before = dict(hub.repo(REPO).files)
    hub.fail = lambda method, path: 500 if "/commit/" in path else None
    refused(lambda: push(run, full=True), "cannot be put on the Hub")
    assert hub.repo(REPO).files == before


def test_two_writers(hub, run):
    """Someone commits between our look at the repo and our commit: theirs stays, ours is refused."""
    push(run)
    repo = hub.repo(REPO)

    def someone_else(method, path):
        if "/preupload/" in path:
            hub.fail = lambda *_: None
            repo.commit(repo.files | {"theirs.txt": b"x"}, "theirs")

    hub.fail = someone_else
    assert "try again" in refused(lambda: push(run, full=True), "cannot be put on the Hub").hint
    assert repo.messages[-1] == "theirs" and "model.safetensors" not in repo.files
    push(run, full=True)
    assert "theirs.txt" in repo.files and "model.safetensors" in repo.files


def test_no_token(hub, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in refused(lambda: push(run), "cannot be put on the Hub").hint


def test_offline(run, capsys):
    assert msa(["push", str(run), "--repo", REPO]) == 2  # the tests' own HF_HUB_OFFLINE
    error = capsys.readouterr().err
    assert "HF_HUB_OFFLINE" in error and "Traceback" not in error


# -- a Space -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def demo(tmp_path):
    folder = tmp_path / "demos"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__pycache__" / "x.pyc").write_bytes(b"")
    (folder / "app.py").write_text("import gradio\n")
    (folder / "README.md").write_text("---\ntitle: MSA\nsdk: gradio\n---\n\nA demo.\n")
    return folder


def test_a_space_names_its_model(hub, run, demo, capsys):
    assert msa(["push", str(run), "--repo", REPO, "--space", "--demo", str(demo)]) == 0
    space = hub.repo(REPO, "space")
    assert set(space.files) == {".gitattributes", "app.py", "README.md"} and space.settings["sdk"] == "gradio"
    header = yaml.safe_load(space.files["README.md"].decode().split("---")[1])
    assert header == {"title": "MSA", "sdk": "gradio", "models": [REPO]}
    assert space.files["README.md"].decode().endswith("---\n\nA demo.\n") and REPO in capsys.readouterr().out


@pytest.mark.parametrize("lacks", ["folder", "app.py", "README.md", "header"])
def test_without_a_demo_nothing_is_published(hub, run, demo, lacks, capsys):
    if lacks == "folder":
        shutil.rmtree(demo)
    elif lacks == "header":
        (demo / "README.md").write_text("# A demo\n")
    else:
        (demo / lacks).unlink()
    assert msa(["push", str(run), "--repo", REPO, "--space", "--demo", str(demo)]) == 2
    assert "no demo" in capsys.readouterr().err and hub.repos == {}
    refused(lambda: push_space(demo, REPO, REPO), "no demo")


# -- the command and the method ----------------------------------------------------------------------------------------


def test_the_command_prints_what_it_did(hub, run, capsys):
    assert msa(["push", str(run), "--repo", REPO, "--private", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["repo"] == REPO and set(facts["files"]) == OWN_FILES and hub.repo(REPO).private
    assert msa(["push", str(run), "--repo", REPO, "--dtype", "int8"]) == 2


def test_a_model_in_memory(hub, run, inputs_for):
    model = MSAModel.from_pretrained(run)
    model.push_to_hub(REPO, private=True, tags=["liver"])
    repo = hub.repo(REPO)
    assert set(repo.files) == {
        ".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors", "config.json"
    } and len(repo.messages) == 2 and repo.private  # fmt: skip
    card = repo.files["README.md"].decode()
    assert {"msa-adapter", "liver"} <= set(yaml.safe_load(card.split("---")[1])["tags"]) and "no evaluation" in card
    opened = MSAModel.from_pretrained(REPO)
    torch.testing.assert_close(opened(**inputs_for("2D")).pred_masks, model(**inputs_for("2D")).pred_masks)
    repo.commit(repo.files | {"README.md": b"---\ntags: [a]\n---\nby hand"}, "a person")
    model.push_to_hub(REPO, full=True, revision="full")
    assert "model.safetensors" in repo.commits[repo.refs["full"]] and "model.safetensors" not in repo.files
    assert repo.commits[repo.refs["full"]]["README.md"].endswith(b"by hand")
    assert torch.equal(MSAModel.from_pretrained(REPO, revision="full").vision_encoder.pos_embed,
                       model.vision_encoder.pos_embed)  # fmt: skip


def test_a_model_in_memory_on_a_local_base(hub, tiny_base, make_run, tmp_path):
    model = MSAModel.from_pretrained(make_run(base=tiny_base))
    refused(lambda: model.push_to_hub(REPO), "base lies in a folder of this machine")
    assert hub.repos == {}
    model.push_to_hub(REPO, full=True)
    model.save_pretrained(tmp_path / "saved", full=True, push_to_hub=True, repo_id="org/saved")
    for repo in (hub.repo(REPO), hub.repo("org/saved")):
        assert str(tiny_base).encode() not in b"".join(repo.files.values())
        adapter = json.loads(repo.files["config.json"])["adapter_configs"]["default"]
        assert adapter["base_model_name_or_path"] == tiny_base.name
    MSAModel.from_pretrained(REPO)


def test_saving_can_publish_as_transformers_does(hub, run, tmp_path):
    MSAModel.from_pretrained(run).save_pretrained(tmp_path / "x", push_to_hub=True, repo_id=REPO, private=True)
    assert "adapter_model.safetensors" in hub.repo(REPO).files and hub.repo(REPO).private
    assert (tmp_path / "x" / "adapter_model.safetensors").exists()


def test_the_stored_weights_are_the_published_ones(hub, run, tmp_path):
    push(run)
    (tmp_path / "w.safetensors").write_bytes(hub.repo(REPO).files["adapter_model.safetensors"])
    got, want = load_file(tmp_path / "w.safetensors"), load_file(run / "adapter_model.safetensors")
    assert got.keys() == want.keys() and all(torch.equal(got[k], want[k]) for k in got)
    assert os.environ["HF_TOKEN"] == TOKEN
