"""The bank of texts: what is shipped, what its rules refuse, and what a data set is told."""

from __future__ import annotations

import copy

import pytest
import yaml

from medsam_adapter.errors import DataError
from medsam_adapter.prompts.text_bank import TextBank, check_bank, plain_texts
from medsam_adapter.prompts.text_files import SHIPPED
from medsam_adapter.prompts.text_names import IS_CJK, Finder, sentence_key, too_long

BTCV = ["spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
        "inferior vena cava", "portal and splenic veins", "pancreas", "right adrenal gland",
        "left adrenal gland"]  # fmt: skip
AMOS = ["spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach", "arota", "postcava",
        "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder", "prostate/uterus"]  # fmt: skip
OTHERS = ["optic disc", "optic cup", "whole tumor", "tumor core", "enhancing tumor", "anterior hippocampus",
          "posterior hippocampus", "thyroid nodule", "skin lesion", "melanoma", "nevus"]  # fmt: skip

KNEE = {
    "region": "knee",
    "data": ["OAI"],
    "targets": {
        "medial meniscus": {
            "names": ["medial meniscus", "inner meniscus", "内侧半月板"],
            "train": ["the medial meniscus", "Mark the inner meniscus.", "分割内侧半月板"],
            "held_out": ["Where is the inner meniscus?"],
        },
        "patella": {
            "names": ["patella", "kneecap"],
            "train": ["the patella", "a broken kneecap"],
            "held_out": ["Where is the kneecap?"],
        },
        "patella tendon": {"names": [], "train": ["patella tendon"], "held_out": ["a torn patella tendon"]},
    },
    "unions": [
        {
            "targets": ["medial meniscus", "patella"],
            "names": ["inner and front knee"],
            "train": ["patella and medial meniscus", "the inner and front knee"],
            "held_out": ["the medial meniscus and the kneecap"],
        }
    ],
}


@pytest.fixture(scope="module")
def shipped() -> TextBank:
    return TextBank.load()


@pytest.fixture
def write(tmp_path):
    """write(change) -> path of the knee's file after change(content)."""

    def make(change=lambda content: None, name: str = "knee.yaml"):
        content = copy.deepcopy(KNEE)
        content = change(content) or content
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
        return path

    return make


# -- what is shipped ---------------------------------------------------------------------------------------------------


def test_the_shipped_bank_breaks_no_rule_and_is_whole(shipped):
    assert {*BTCV, "duodenum", "bladder", "prostate or uterus", *OTHERS} == set(shipped.targets)
    assert {target.region for target in shipped.targets.values()} == {"abdomen", "eye", "brain", "thyroid", "skin"}


def test_every_shipped_target_has_twelve_sentences_a_third_held_out_and_some_in_chinese(shipped):
    for name, target in shipped.targets.items():
        assert len(target.train) >= 8 and len(target.held_out) >= 4, name
        assert 0.25 <= len(target.held_out) / len(target.train + target.held_out) <= 0.45, name
        for part in (target.train, target.held_out):
            assert any(IS_CJK.search(sentence) for sentence in part), name
            assert any(sentence.endswith("?") for sentence in part) and len(set(map(len, part))) >= 4, name
        assert target.names[0] == name and target.data


def test_shipped_unions(shipped):
    sets = [frozenset(union.targets) for union in shipped.unions]
    assert len(sets) == len(set(sets)) and all(len(u.train) >= 4 and len(u.held_out) >= 2 for u in shipped.unions)
    assert len([s for s in sets if s <= set(BTCV)]) >= 8
    for wanted in (
        ["liver", "spleen"], ["liver", "left kidney"], ["spleen", "left kidney"], ["liver", "spleen", "left kidney"],
        ["left kidney", "right kidney"], ["left adrenal gland", "right adrenal gland"], ["optic disc", "optic cup"],
        ["melanoma", "nevus"], ["anterior hippocampus", "posterior hippocampus"],
    ):  # fmt: skip
        assert frozenset(wanted) in sets


@pytest.mark.parametrize("labels", [BTCV, AMOS])
def test_all_labels_of_btcv_and_amos_are_found(shipped, labels):
    texts = shipped.for_labels(labels)
    assert texts.notes == [] and list(texts.targets) == labels


def test_find_takes_synonyms_and_the_spellings_of_label_files(shipped):
    for label, target in {
        "Anterior": "anterior hippocampus", "posterior": "posterior hippocampus", "kidney_left": "left kidney",
        "RKID": "right kidney", "adrenal-gland-right": "right adrenal gland", "oesophagus": "esophagus",
        "enhancing_tumour": "enhancing tumor", "optic  disk": "optic disc", "视杯": "optic cup", "naevus": "nevus",
        "urinary_bladder": "bladder", "postcava": "inferior vena cava",
    }.items():  # fmt: skip
        assert shipped.find(label) == target
    for label in ("kidney", "hippocampus", "label_3", "non-enhancing tumor", "lesion", ""):
        assert shipped.find(label) is None


@pytest.mark.parametrize(
    ("labels", "strange"),
    [(["artery", "veins"], "veins"), (["LAD", "LCX", "RCA"], "LAD"), (["optic disc", "anterior"], "anterior")],
)
def test_a_short_name_that_means_something_else_elsewhere_needs_another_label_of_its_region(shipped, labels, strange):
    texts = shipped.for_labels(labels)
    assert texts.targets[strange].train == plain_texts(strange).train
    assert any(note.startswith(f"label {strange!r} may be the {shipped.find(strange)}, or not") for note in texts.notes)
    assert bool(texts.absent.train) == ("optic disc" in labels)  # no region by the word "veins"


@pytest.mark.parametrize(
    ("labels", "short"),
    [(["anterior", "posterior"], ["anterior", "posterior"]), (["liver", "gall", "lad"], ["gall", "lad"])],
)
def test_a_short_name_that_is_taken_for_a_target_is_told(shipped, labels, short):
    texts = shipped.for_labels(labels)
    assert {label: texts.targets[label] for label in labels} == {n: shipped.targets[shipped.find(n)] for n in labels}
    told = [f"label {label!r} is taken for the {shipped.find(label)}: if it is not, name it in full" for label in short]
    assert texts.notes == told


# -- rules -------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_in_addition_to_the_shipped_ones(write, shipped):
    bank = TextBank.load(write())
    assert set(bank.targets) == {*shipped.targets, *KNEE["targets"]}
    assert bank.targets["patella"].names == ("patella", "kneecap") and bank.targets["patella"].region == "knee"
    assert bank.unions[-1].targets == ("medial meniscus", "patella") and len(bank.unions) == len(shipped.unions) + 1
    folder = write().parent
    write(
        lambda c: {**c, "targets": {"tibia": {"train": ["the tibia"], "held_out": ["a tibia"]}}, "unions": []}, "b.yaml"
    )
    assert {"patella", "tibia"} <= set(TextBank.load(folder).targets)


def test_a_target_defined_twice_has_the_names_and_sentences_of_both(write, shipped):
    def more(content):
        texts = {"names": ["Spleen", "lien"], "train": ["the lien"], "held_out": ["a lien"]}
        union = {"targets": ["Spleen", "liver"], "train": ["liver beside the lien"]}
        return {"region": "Abdomen", "targets": {"Spleen": texts}, "unions": [union]}

    bank = TextBank.load(write(more))
    assert list(bank.targets) == list(shipped.targets)
    old, new = shipped.targets["spleen"], bank.targets["spleen"]
    assert new.names == (*old.names, "lien") and new.train == (*old.train, "the lien")
    assert new.held_out == (*old.held_out, "a lien") and bank.find("lien") == "spleen"
    pair = [union for union in bank.unions if set(union.targets) == {"liver", "spleen"}]
    assert len(pair) == 1 and "liver beside the lien" in pair[0].train


def test_a_shipped_file_given_by_hand_is_not_read_twice(shipped):
    assert TextBank.load(SHIPPED / "eye.yaml") == shipped == TextBank.load(SHIPPED)


def put(target: str, part: str, sentence: str):
    return lambda content: content["targets"][target][part].append(sentence)


def put_union(part: str, sentence: str):
    return lambda content: content["unions"][0][part].append(sentence)


LONG_CHINESE = "内侧半月板" + "损伤" * 28
RULES = {
    "no target named": (put("patella", "train", "the bone in front"), "patella", "the bone in front", "kneecap"),
    "part of a word": (put("patella", "train", "the patellar bone"), "patella", "the patellar bone", "not name"),
    "negated": (put("patella", "train", "a non-patella bone"), "patella", "a non-patella bone", "not name"),
    "other target": (put("patella", "train", "patella by the medial meniscus"), "patella", "by the", "another target"),
    "other in Chinese": (put("patella", "held_out", "patella和内侧半月板"), "patella", "和内侧", "another target"),
    "the group": (put("patella", "train", "patella, inner and front knee"), "patella", ", inner", "another target"),
    "longest name": (put("patella", "train", "Cut the patella tendon."), "patella", "Cut the", "patella tendon"),
    "union lacks one": (put_union("train", "the kneecap alone"), "medial meniscus + patella", "kneecap alone", "inner"),
    "union has more": (
        put_union("held_out", "patella, medial meniscus, patella tendon"),
        "medial meniscus + patella", ", medial", "another target",
    ),
    "twice": (put("patella", "held_out", "THE Patella!"), "patella", "THE Patella!", "twice"),
    "twice in two files": (put("patella", "train", "Spleen"), "patella", "Spleen", "abdomen.yaml"),
    "unseen name": (
        lambda c: c["targets"]["patella"]["names"].append("knee disc")
        or c["targets"]["patella"]["held_out"].append("my knee disc"),
        "patella", "my knee disc", "training never sees",
    ),
    "unseen name in a union": (
        lambda c: c["targets"]["patella tendon"]["names"].append("the strap")
        or c["unions"].append({"targets": ["patella tendon", "patella"], "train": ["patella and patella tendon"],
                               "held_out": ["patella and the strap"]}),
        "patella tendon + patella", "and the strap", "training never sees",
    ),
    "too many words": (put("patella", "train", "patella " + "very " * 40), "patella", "very", "41 words"),
    "too many characters": (put("medial meniscus", "train", LONG_CHINESE), "medial meniscus", "损伤", "61 Chinese"),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_names_file_target_and_sentence(write, rule):
    change, target, sentence, said = RULES[rule]
    path = write(change)
    with pytest.raises(DataError) as caught:
        TextBank.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: {target}: ") and sentence in text and said in text


def test_sentences_at_the_limits_are_taken(write):
    TextBank.load(write(put("patella", "train", "patella " + "very " * 39)))
    TextBank.load(write(put("medial meniscus", "train", LONG_CHINESE[:-1])))
    assert too_long("肝" * 60) is None and too_long("肝" * 61) and too_long("a " * 41)


STRUCTURE = {
    "no region": (lambda c: c.pop("region"), "has no region", "abdomen"),
    "no targets": (lambda c: c.pop("targets") and None, "has no targets", "None"),
    "empty targets": (lambda c: {**c, "targets": {}}, "has no targets", "{}"),
    "not a mapping": (lambda c: ["knee"], "wrong form", "region"),
    "unknown key of the file": (lambda c: {**c, "regoin": 1}, "unknown key regoin", "did you mean region?"),
    "unknown key of a target": (
        lambda c: c["targets"]["patella"].update(heldout=[]), "patella has an unknown key heldout", "mean held_out?"
    ),
    "unknown key of a union": (
        lambda c: c["unions"][0].update(target=[]), "union 1 has an unknown key target", "did you mean targets?"
    ),
    "no train sentence": (lambda c: c["targets"]["patella"].pop("train") and None, "patella: ", "no train sentence"),
    "no held-out sentence": (
        lambda c: c["targets"]["patella"].update(held_out=[]), "patella: ", "no held_out sentence"
    ),
    "union without held out": (
        lambda c: c["unions"][0].update(held_out=None), "medial meniscus + patella: ", "no held_out sentence"
    ),
    "a sentence with a colon": (put("patella", "train", {"the patella": "big"}), "patella: train", "needs quotes"),
    "an empty sentence": (put("patella", "train", " ! "), "patella: train", "no text"),
    "no list": (lambda c: c["targets"]["patella"].update(train="the patella"), "patella: train", "no list"),
    "shared name": (
        lambda c: c["targets"]["patella"]["names"].append("Inner-Meniscus"), "patella: ", "name of medial meniscus"
    ),
    "name shared with a shipped target": (
        lambda c: c["targets"]["patella"]["names"].append("OPTIC_DISK"), "patella: ", "name of optic disc"
    ),
    "union of one": (lambda c: c["unions"][0].update(targets=["patella", "patella"]), "union 1", "too few"),
    "union with a stranger": (
        lambda c: c["unions"][0].update(targets=["medial meniscus", "patela"]), "patela: ", "did you mean patella?"
    ),
    "union across regions": (lambda c: c["unions"][0].update(targets=["patella", "liver"]), "liver: ", "region knee"),
    "target in two regions": (
        lambda c: c["targets"].update(liver={"train": ["a knee's liver"], "held_out": ["liver, knee"]}), "liver: ",
        "two regions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STRUCTURE)
def test_a_broken_structure_is_refused(write, case):
    change, *said = STRUCTURE[case]

    def dropping(content):
        result = change(content)
        return result if isinstance(result, dict | list) else None

    path = write(dropping)
    with pytest.raises(DataError) as caught:
        TextBank.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and all(words in text for words in said), text


def test_unreadable_files(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.yaml").write_text("region: [\n")
    (tmp_path / "latin.yaml").write_bytes("region: Gehör".encode("latin-1"))
    (tmp_path / "twice.yaml").write_text("region: a\ntargets:\n  b: {train: [b]}\n  b: {held_out: [a b]}\n")
    for name, said in {
        "none.yaml": "no such file", "empty": "without one", "broken.yaml": "YAML", "latin.yaml": "UTF-8",
        "twice.yaml": "'b' stands twice",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=said) as caught:
            TextBank.load(tmp_path / name)
        assert caught.value.file == tmp_path / name


def test_check_lists_all_findings_at_once(write):
    def spoil(content):
        content["targets"]["patella"]["train"] += ["the bone", "THE PATELLA"]
        content["targets"]["medial meniscus"]["held_out"] = []

    bank, findings = check_bank(write(spoil))
    assert len(findings) == 3 and "patella" in bank.targets
    assert check_bank(write())[1] == []


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("the gall bladder", {"gall bladder"}),
        ("Bladder, and gall-bladder", {"bladder", "gall bladder"}),
        ("bladders and bladder2", set()),
        ("gallbladder", set()),
        ("分割bladder区域", {"bladder"}),
        ("左肾上腺", {"左肾上腺"}),
        ("左肾上腺和左肾", {"左肾上腺", "左肾"}),
        ("non-bladder", set()),
        ("the bladder's wall", {"bladder"}),
    ],
)
def test_finder(sentence, found):
    assert Finder(["bladder", "gall bladder", "左肾", "左肾上腺"])(sentence) == found


def test_sentence_key():
    assert sentence_key("Where is the  Liver?") == sentence_key("where is the liver") != sentence_key("Where's a liver")
    assert sentence_key("分割 肝脏。") == sentence_key("分割肝脏")


# -- what a data set is told -------------------------------------------------------------------------------------------


def test_labels_keep_their_own_names_and_unions_follow(shipped):
    texts = shipped.for_labels(["Liver", "kidney_left"])
    assert texts.targets["Liver"] == shipped.targets["liver"]
    assert [union.targets for union in texts.unions] == [("Liver", "kidney_left")]
    assert texts.unions[0].train == next(
        union.train for union in shipped.unions if union.targets == ("liver", "left kidney")
    )
    assert texts.notes == []


def test_an_unknown_label_has_plain_templates_and_a_note(shipped):
    texts = shipped.for_labels(["liver", "label_3", "splen"])
    assert texts.targets["label_3"] == plain_texts("label_3")
    plain = texts.targets["label_3"]
    assert plain.names == ("label 3",) and (len(plain.train), len(plain.held_out)) == (8, 4)
    assert all("label 3" in sentence for sentence in plain.train + plain.held_out)
    assert len({sentence_key(s) for s in plain.train + plain.held_out}) >= 11  # "the x" and "x" differ by a word only
    assert len(texts.notes) == 2 and "'label_3'" in texts.notes[0] and "if it is the spleen" in texts.notes[1]


def test_two_labels_of_one_target_do_not_share_its_sentences(shipped):
    texts = shipped.for_labels(["left kidney", "kidney_left", "left kidney"])
    assert texts.targets["kidney_left"] == plain_texts("kidney_left") and len(texts.targets) == 2
    assert texts.notes == ["label 'kidney_left' is 'left kidney' to the text bank: plain templates only"]


def test_absent_texts_are_of_other_regions(shipped):
    absent = shipped.for_labels(["optic disc"]).absent
    elsewhere = [t for t in shipped.targets.values() if t.region != "eye"]
    assert set(absent.train) == {sentence for target in elsewhere for sentence in target.train}
    assert set(absent.held_out) == {sentence for target in elsewhere for sentence in target.held_out}
    both = shipped.for_labels(["optic disc", "liver"]).absent
    assert both.train and not set(both.train) & set(shipped.targets["spleen"].train)


def test_where_no_label_is_known_nothing_is_surely_absent(shipped):
    for labels in ([], ["label_3"]):
        assert shipped.for_labels(labels).absent == ((), ())


def test_absent_texts_name_no_label(shipped):
    absent = shipped.for_labels(["liver", "brain_tumor"]).absent  # brain tumor is known: its region has labels
    assert not any("tumor" in sentence for sentence in absent.train)
    absent = shipped.for_labels(["liver", "lesion"]).absent  # lesion is unknown, but a word of the skin's sentences
    assert not Finder(["lesion"])(" ".join(absent.train + absent.held_out)) and "melanoma" in absent.train
