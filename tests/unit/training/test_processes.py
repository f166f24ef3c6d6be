"""Shares of several processes, without starting any: together they are what one process would do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medsam_adapter import MSAAdapterConfig, MSAModel
from medsam_adapter.data.sample import Case
from medsam_adapter.errors import DataError
from medsam_adapter.evaluation import shares
from medsam_adapter.evaluation.metrics import MaskMetrics
from medsam_adapter.evaluation.results import CaseResult
from medsam_adapter.evaluation.shares import CaseRows, gather_extremes, over_processes
from medsam_adapter.pretraining.backbone import BackboneConfig
from medsam_adapter.pretraining.promptable import PromptableRecipe, Scenes
from medsam_adapter.training import objective as objective_module
from medsam_adapter.training.global_batches import GlobalBatches
from medsam_adapter.training.objective import PromptedObjective
from medsam_adapter.training.recipe import PROMPT_KINDS, LossSection, PromptSection

# -- batches -----------------------------------------------------------------------------------------------------------


def parts(samples, batch_size, count, **options):
    return [list(GlobalBatches(samples, batch_size, 7, index, count, **options)) for index in range(count)]


@pytest.mark.parametrize(("samples", "count"), [(5, 2), (8, 2), (9, 4), (3, 4), (1, 3), (16, 4)])
def test_processes_share_out_the_batches_of_one(samples, count):
    (whole,) = parts(samples, 2 * count, 1)
    shared = parts(samples, 2, count)
    assert len({len(own) for own in shared}) == 1 and len(shared[0]) == len(whole)
    for step, batch in enumerate(whole):
        together = [place for own in shared for place in own[step]]
        assert all(counts for _, counts in batch)
        assert [index for index, counts in together if counts] == [index for index, _ in batch]
        assert len({len(own[step]) for own in shared}) == 1  # each has something to do
    assert sorted(index for batch in whole for index, _ in batch) == list(range(samples))


def test_the_order_depends_on_seed_and_epoch_alone():
    batches = GlobalBatches(20, 4, seed=3)
    first = list(batches)
    assert list(batches) == first
    batches.set_epoch(1)
    assert list(batches) != first
    batches.set_epoch(0)
    assert list(batches) == first and list(GlobalBatches(20, 4, seed=4)) != first


def test_a_last_batch_that_is_not_full_may_be_dropped():
    assert (
        [len(own) for own in parts(11, 2, 2, drop_last=True)]
        == [2, 2]
        == [len(GlobalBatches(11, 2, 0, 0, 2, True))] * 2
    )
    assert all(counts for own in parts(11, 2, 2, drop_last=True) for batch in own for _, counts in batch)


# -- gradients ---------------------------------------------------------------------------------------------------------


def inputs(samples=3, slices=4, objects=2):
    generator = torch.Generator().manual_seed(1)
    targets = torch.zeros(samples, slices, objects, 32, 32)
    for b in range(samples):
        targets[b, : slices - 1 - b % 2, 0, 5 : 15 + b, 5:15] = 1
        targets[b, 1:, 1, 18:28, 12 : 22 + 2 * b] = 1
    return dict(
        pixel_values=torch.randn(samples, slices, 3, 64, 64, generator=generator),
        targets=targets,
        slice_mask=torch.ones(samples, slices, dtype=torch.bool),
        texts=torch.randn(samples, objects, 6, generator=generator),
        text_targets=targets.flip(2),
        samples=torch.tensor([4, 9, 2])[:samples],
        counts=torch.ones(samples, dtype=torch.bool),
    )


def gradients(objective, parts, monkeypatch):
    """The mean of the parts' gradients, and what each reports, as if each part were a process.

    A process hands over what is to be summed up and gets the sum of all; here the parts take turns, and once round
    for each sum that they ask for.
    """
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    sums: list[torch.Tensor] = []
    monkeypatch.setattr(objective_module, "num_processes", lambda: len(parts))
    while True:
        handed, found, reports = [], {name: 0 for name in trained}, []
        for part in parts:
            asked = []

            def total(values, asked=asked):
                asked.append(values.detach())
                return sums[len(asked) - 1] if len(asked) <= len(sums) else values.detach() + 1  # not known yet

            monkeypatch.setattr(objective_module, "sum_over_processes", total)
            objective.zero_grad()
            out = objective(**part, seed=(0, 5, 1))
            out["loss"].backward()
            handed.append(asked)
            reports.append({name: value.item() for name, value in out.items()})
            for name, weight in trained.items():
                found[name] = found[name] + weight.grad / len(parts)
        if len(sums) == len(handed[0]):
            return found, reports
        sums.append(sum(asked[len(sums)] for asked in handed))


def cut(whole, first, last, fill=0):
    """Samples first to last, and after them `fill` that do not count."""
    part = {key: torch.cat([value[first:last], *[value[:1]] * fill]) for key, value in whole.items()}
    part["counts"] = torch.arange(len(part["counts"])) < last - first
    return part


@pytest.fixture
def make_objective(tiny_sam, randomise):
    def make(**weights):
        config = MSAAdapterConfig(use_depth=True, num_slices=4, bottleneck_ratio=0.25, use_text=True, text_width=6)
        model = randomise(MSAModel.from_base(tiny_sam(), config), only="msa_adapter_")
        section = PromptSection(**{**dict.fromkeys(PROMPT_KINDS, 0.0), **weights}, correction_probability=1.0)
        return PromptedObjective(model, section, LossSection()).train()

    return make


@pytest.mark.parametrize("kind", ["clicks", "neighbour", "box_and_click", "text", "text_and_click"])
def test_the_mean_of_the_parts_gradients_is_that_of_the_whole_batch(make_objective, monkeypatch, kind):
    objective, whole = make_objective(**{kind: 1.0}), inputs()
    expected, (report,) = gradients(objective, [whole], monkeypatch)
    uneven = [cut(whole, 0, 2), cut(whole, 2, 3, fill=1)]
    got, reports = gradients(objective, uneven, monkeypatch)
    assert reports[0] == pytest.approx(report, abs=1e-5, nan_ok=True) and reports[1] == pytest.approx(
        reports[0], nan_ok=True
    )
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (got[name] - gradient).abs().max() < 1e-5 * largest, name


@pytest.mark.parametrize("with_texts", [False, True])
def test_a_part_without_anything_to_click_goes_along(make_objective, monkeypatch, with_texts):
    """Its sample shows no target: it decodes something (else FSDP and DDP wait) and adds nothing.

    Nor does it say its sentences in place of clicks, as a whole batch without anything to click would.
    """
    objective, whole = make_objective(clicks=1.0), inputs()
    for key in () if with_texts else ("texts", "text_targets"):
        del whole[key]
    whole["targets"][2] = 0
    expected, (report,) = gradients(objective, [whole], monkeypatch)
    got, reports = gradients(objective, [cut(whole, 0, 2), cut(whole, 2, 3)], monkeypatch)
    assert reports[1] == pytest.approx(report, abs=1e-5, nan_ok=True)
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert all((got[name] - gradient).abs().max() < 1e-5 * largest for name, gradient in expected.items())


# -- evaluation --------------------------------------------------------------------------------------------------------


def in_turn(monkeypatch, count, call):
    """call() as each of `count` processes; what is gathered is known from a first round."""
    gathered: list[list] = []
    monkeypatch.setattr(shares, "num_processes", lambda: count)
    while True:
        handed, results = [], []
        for index in range(count):
            asked = []

            def gather(own, asked=asked):
                asked.append(own)
                return gathered[len(asked) - 1] if len(asked) <= len(gathered) else own * count

            monkeypatch.setattr(shares, "process_index", lambda index=index: index)
            monkeypatch.setattr(shares, "gather_list", gather)
            try:
                results.append(call(index))
            except (DataError, KeyError) as error:
                results.append(error)
            handed.append(asked)
        if len(gathered) == len(handed[0]):
            return results
        gathered.append([item for asked in handed for item in asked[len(gathered)]])


def rows_of(case):
    metrics = MaskMetrics(0.5, 0.4, 1.0, 3, 3)
    return CaseRows([CaseResult(case.case_id, "liver", metrics)], {"A": [CaseResult(case.case_id, "liver", metrics)]})


@pytest.mark.parametrize(("cases", "count"), [(17, 4), (4, 4), (2, 4), (5, 1)])
def test_each_case_is_counted_once_and_in_order(monkeypatch, cases, count):
    listed, done = [Case(f"case {n}", Path("none.nii")) for n in range(cases)], []

    def evaluate(case):
        done.append(case.case_id)
        return rows_of(case)

    results = in_turn(monkeypatch, count, lambda index: done.clear() or over_processes(evaluate, listed))
    for rows in results:
        assert [row.case_id for each in rows for row in each.own] == [case.case_id for case in listed]
    assert len(done) == len(range(count - 1, cases, count))  # the last process asked of its own only


def test_an_error_of_one_process_ends_all(monkeypatch):
    listed = [Case(f"case {n}", Path("none.nii")) for n in range(6)]

    def evaluate(case):
        if case.case_id == "case 4":
            raise DataError("half a file", file="case 4")
        return rows_of(case)

    results = in_turn(monkeypatch, 3, lambda index: over_processes(evaluate, listed))
    assert all(isinstance(result, DataError) and "half a file" in str(result) for result in results)


def test_the_extremes_of_all_processes_are_those_of_one(monkeypatch):
    dice = [0.5, 0.9, 0.9, 0.1, 0.3, 0.1, 0.7]
    scored = [(case, value, f"picture {case}") for case, value in enumerate(dice)]
    one = gather_extremes(scored)
    for got in in_turn(monkeypatch, 3, lambda index: gather_extremes(scored[index::3])):
        assert [value for value, _ in got] == [value for value, _ in one]
        order = sorted(range(len(dice)), key=lambda n: -dice[n])
        picked = {order[0], order[len(order) // 2], order[-1]}
        assert [picture for _, picture in got] == [p if n in picked else None for n, (_, p) in enumerate(one)]


# -- pre-training ------------------------------------------------------------------------------------------------------


def test_processes_make_the_scenes_of_one():
    values = dict(backbone=BackboneConfig(image_size=32), prompts_per_scene=2, steps=3, seed=5)
    one = Scenes(PromptableRecipe(batch_size=4, **values), 1)
    two = [Scenes(PromptableRecipe(batch_size=2, **values), 1, index, 2) for index in (0, 1)]
    for whole, *halves in zip(one, *two, strict=True):
        for number in (0, 1):
            assert torch.equal(whole[number], torch.cat([half[number] for half in halves]))
    assert not torch.equal(*(next(iter(scenes))[0] for scenes in two))
