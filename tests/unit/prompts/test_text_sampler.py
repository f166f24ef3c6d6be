"""Which sentence is said of a sample, and what it means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medsam_adapter.prompts.text_bank import AbsentTexts, LabelTexts, TargetTexts, UnionTexts
from medsam_adapter.prompts.text_sampler import TextSampler, TextShares

VALUES = {"liver": (3,), "spleen": (7,), "aorta": (9, 10)}


def texts() -> LabelTexts:
    targets = {
        name: TargetTexts((name,), (f"the {name}", f"show the {name}"), (f"held {name}",), "abdomen") for name in VALUES
    }
    unions = [UnionTexts(("liver", "spleen"), ("liver and spleen",), ("held liver and spleen",))]
    return LabelTexts(targets, unions, AbsentTexts(("the optic disc", "the iris"), ("held disc",)))


def sampler(**shares) -> TextSampler:
    encode = lambda sentences: torch.arange(len(sentences), dtype=torch.float32)[:, None]  # noqa: E731
    return TextSampler(texts(), VALUES, encode, TextShares(**{"elsewhere": 0, "union": 0, "absent": 0, **shares}))


def drawn(made: TextSampler, shown, count=400) -> list[tuple[frozenset, str]]:
    rng = np.random.default_rng(0)
    out = []
    for _ in range(count):
        meant, row = made.draw(shown, rng)
        assert made.embeddings[row].item() == row
        out.append((frozenset(meant), made.sentences[row]))
    return out


def test_a_sentence_names_what_it_means_and_no_held_out_one_is_said():
    said = drawn(sampler(elsewhere=0.3, union=0.3, absent=0.2), {(3,), (9, 10)}, 2000)
    for meant, sentence in said:
        assert {name for name, values in VALUES.items() if meant & set(values)} == {n for n in VALUES if n in sentence}
        assert "held" not in sentence
    assert {sentence for _, sentence in said} == {
        *(s for t in texts().targets.values() for s in t.train), "liver and spleen", "the optic disc", "the iris",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("share", "meant"), [("union", frozenset({3, 7})), ("absent", frozenset()), ("elsewhere", None)]
)
def test_shares_are_followed(share, meant):
    said = drawn(sampler(**{share: 0.4}), {(9, 10)}, 2000)
    if meant is None:  # a third of the 40 % happens to be what is shown
        assert 0.6 + 0.4 / 3 - 0.05 < np.mean([m == {9, 10} for m, _ in said]) < 0.6 + 0.4 / 3 + 0.05
    else:
        assert 0.35 < np.mean([m == meant for m, _ in said]) < 0.45


def test_shares_do_not_eat_each_other():
    said = [meant for meant, _ in drawn(sampler(union=0.3, absent=0.3, elsewhere=0.0), {(9, 10)}, 3000)]
    shares = [np.mean([m == frozenset(want) for m in said]) for want in ((), (3, 7), (9, 10))]
    np.testing.assert_allclose(shares, [0.3, 0.3, 0.4], atol=0.03)


def test_what_is_shown_is_named_unless_nothing_is():
    assert {m for m, _ in drawn(sampler(), {(7,)})} == {frozenset({7})}
    assert {m for m, _ in drawn(sampler(), set())} == {frozenset(v) for v in VALUES.values()}
    assert {m for m, _ in drawn(sampler(), {(4,), (7,)})} == {frozenset({7})}  # 4 is a label that is not learned


def test_without_unions_and_absent_ones_their_shares_go_to_the_rest():
    bare = texts()
    bare.unions, bare.absent = [], AbsentTexts()
    made = TextSampler(bare, VALUES, lambda s: torch.zeros(len(s), 1), TextShares(0, 0.5, 0.5))
    assert {m for m, _ in drawn_without_rows(made)} == {frozenset({7})}


def drawn_without_rows(made):
    rng = np.random.default_rng(0)
    return [(frozenset(meant), row) for meant, row in (made.draw({(7,)}, rng) for _ in range(100))]


def test_masks_are_the_union():
    labels = torch.tensor([[0, 3, 7], [9, 3, 0]], dtype=torch.int32)
    made = sampler()
    assert torch.equal(made.mask(labels, {3, 7}), (labels == 3) | (labels == 7))
    assert torch.equal(made.mask(labels, {9}), labels == 9)
    assert not made.mask(labels, set()).any()
