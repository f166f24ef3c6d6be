"""prompts.csv, MANIFEST.csv and folders: which cases there are and what is asked of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsam_adapter.errors import DataError
from medsam_adapter.inference.batch_cases import (
    BatchCase,
    ask_prompts,
    ask_texts,
    check_cases,
    find_cases,
    object_names,
)
from medsam_adapter.inference.prompts_csv import read_prompts
from medsam_adapter.prompts.types import ObjectPrompt
from miniatures import dicom


@pytest.fixture
def folder(tmp_path) -> Path:
    """Files are found by name only; what is in them does not matter yet."""
    root = tmp_path / "scans"
    root.mkdir()
    for name in ("p1.nii.gz", "p2.mha", "p3.png", "notes.txt", ".hidden.nii.gz"):
        (root / name).write_bytes(b"x")
    dicom.series(root / "p4", np.zeros((2, 8, 8), np.uint8))
    (root / "empty").mkdir()
    return root


def table(tmp_path: Path, text: str, name: str = "prompts.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_folder_holds_files_and_series(folder):
    assert [(f.case_id, f.image.name) for f in find_cases(folder)] == [
        ("p1", "p1.nii.gz"), ("p2", "p2.mha"), ("p3", "p3.png"), ("p4", "p4")
    ]  # fmt: skip
    assert [f.image.name for f in find_cases(folder / "p1.nii.gz")] == ["p1.nii.gz"]
    series = find_cases(folder / "p4")
    assert series[-1].case_id == "p4" and len(series) == 3  # its files and itself


def test_prompts_of_every_form(folder, tmp_path):
    file = table(
        tmp_path,
        "case,object,x,y,z,label,x0,y0,x1,y1,text\n"
        "p1,liver,1,2,3,,,,,,\n"
        " p1 ,liver,4,5,6,0,,,,,\n"
        "p1.nii.gz,spleen,,,7,,10,11,12,13.5,\n"
        'p3.png,liver,8,9,,1,,,,,"the liver, all of it"\n'
        "p4,spleen,,,,,,,,,the spleen\n",
    )
    cases = ask_prompts(find_cases(folder), file, folder)
    assert [(c.case_id, c.image.name, c.output, c.labels, c.names) for c in cases] == [
        ("p1", "p1.nii.gz", "p1.nii.gz", (1, 2), ("liver", "spleen")),
        ("p3", "p3.png", "p3.png", (1,), ("liver",)),
        ("p4", "p4", "p4.nii.gz", (2,), ("spleen",)),
    ]
    liver, spleen = cases[0].prompts
    assert liver == ObjectPrompt([(1, 2, 3), (4, 5, 6)], [1, 0])
    assert spleen == ObjectPrompt(boxes=[(10, 11, 7, 12, 13.5, 7)])
    assert cases[1].prompts[0] == ObjectPrompt([(8, 9)], [1], text="the liver, all of it")
    assert cases[2].prompts[0] == ObjectPrompt(text="the spleen")
    assert object_names(cases) == {1: "liver", 2: "spleen"}


def test_columns_in_any_order_semicolons_and_a_mark_of_excel(folder, tmp_path):
    file = table(tmp_path, "\ufeffy;x;case\n2;1;p3\n")
    (case,) = ask_prompts(find_cases(folder), file, folder)
    assert case.prompts[0].points == [(1, 2)] and case.labels == (255,) and case.names == ("object",)
    assert read_prompts(table(tmp_path, "case,x0,y0,x1,y1\np,1,2,3,4\n"))["p"]["object"].boxes == [(1, 2, 3, 4)]


@pytest.mark.parametrize(
    "text",
    [
        "Case,Object,X,Y,Z\np1,liver,1,2,3\n",
        "case\tobject\tx\ty\tz\np1\tliver\t1\t2\t3\n",
        "sep=;\ncase;object;x;y;z\np1;liver;1;2;3\n",
        "\ufeffsep=\t\r\nCASE\tObject \tx\ty\tz\r\np1\tliver\t1\t2\t3\r\n",
        'sep=,\n"case","object","x","y","z"\n"p1","liver",1,2,3\n',
    ],
)
def test_tables_as_excel_and_r_write_them(tmp_path, text):
    assert read_prompts(table(tmp_path, text)) == {"p1": {"liver": ObjectPrompt([(1, 2, 3)], [1])}}


def test_rows_are_counted_with_the_line_that_names_the_separator(tmp_path):
    with pytest.raises(DataError, match="row 3: x without y"):
        read_prompts(table(tmp_path, "sep=;\ncase;x;y\np1;1;\n"))


def test_labels_are_numbers_as_given_or_names_as_they_come(folder, tmp_path):
    file = table(tmp_path, "case,object,x,y\np3,7,1,2\np1,2,1,2\n")
    cases = ask_prompts(find_cases(folder), file, folder)
    assert [c.labels for c in cases] == [(7,), (2,)]
    with pytest.raises(DataError, match="two kinds"):
        ask_prompts(find_cases(folder), table(tmp_path, "case,object,x,y\np3,7,1,2\np1,liver,1,2\n"), folder)
    with pytest.raises(DataError, match="two kinds"):
        ask_prompts(find_cases(folder), table(tmp_path, "case,object,x,y\np3,0,1,2\n"), folder)


def test_one_object_makes_black_and_white_pictures(folder):
    cases = ask_texts(find_cases(folder), ["the liver"])
    assert [c.labels for c in cases] == [(1,), (1,), (255,), (1,)]
    assert [c.labels for c in ask_texts(find_cases(folder), ["a", "b"])] == [(1, 2)] * 4


def test_a_case_that_is_not_there_becomes_one_that_will_fail(folder, tmp_path):
    file = table(tmp_path, "case,x,y\np9,1,2\np3,1,2\n")
    missing, there = ask_prompts(find_cases(folder), file, folder)
    assert missing.image == folder / "p9" and not missing.image.exists() and there.case_id == "p3"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case,x,y\np1,1\n", "row 2: x without y"),
        ("case,x,y\np1,1,2\np1,one,2\n", "row 3: x is 'one'"),
        ("case,x,y\np1,nan,2\n", "x is 'nan'"),
        ("case,x,y,label\np1,1,2,2\n", "neither 1 nor 0"),
        ("case,label,text\np1,1,the liver\n", "label without a click"),
        ("case,x0,y0,x1,y1\np1,1,2,3,\n", "corner missing"),
        ("case,x,y,x0,y0,x1,y1\np1,1,1,1,2,3,4\n", "give each a row"),
        ("case,z,text\np1,3,\n", "z without"),
        ("case,text\np1,\n", "nothing is asked"),
        ("case,x,y\n,1,2\n", "no case"),
        ("case,x,y\n", "no prompt"),
        ("", "other columns"),
        ("case,x,y,z,x\np1,1,2,3,4\n", "names a column twice[\\s\\S]*found: x"),
        ("case,x,why\np1,1,2\n", "other columns"),
        ("x,y\n1,2\n", "other columns"),
        ("case,text\np1,the liver, and more\n", "line 2 has more columns"),
    ],
)
def test_rows_that_are_no_prompts_are_named(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read_prompts(table(tmp_path, text))


def test_many_wrong_rows_are_counted(tmp_path):
    with pytest.raises(DataError, match="row 6.*and 3 more"):
        read_prompts(table(tmp_path, "case,text\n" + "p,\n" * 8))
    with pytest.raises(DataError, match="cannot be read"):
        read_prompts(tmp_path / "nothing.csv")
    (tmp_path / "latin.csv").write_bytes("case,text\np,Milz groß\n".encode("latin-1"))
    with pytest.raises(DataError, match="no CSV"):
        read_prompts(tmp_path / "latin.csv")


def test_a_manifest_names_cases_and_outputs(folder, tmp_path):
    file = table(tmp_path, "case_id,image,output\na,scans/p1.nii.gz,\nb,scans/p2.mha,sub/b.nrrd\n", "MANIFEST.csv")
    found = find_cases(file)
    assert [(f.case_id, f.image, f.output) for f in found] == [
        ("a", folder / "p1.nii.gz", ""), ("b", folder / "p2.mha", "sub/b.nrrd")
    ]  # fmt: skip
    cases = ask_prompts(found, table(tmp_path, "case,x,y,z\nb,1,2,3\np1.nii.gz,1,2,3\n"), folder)
    assert [(c.case_id, c.output) for c in cases] == [("b", "sub/b.nrrd"), ("a", "a.nii.gz")]


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "..", "a\\b", "c:a", "x" * 300, ".hidden", "a\0b"])
def test_names_never_lead_out_of_the_output_folder(folder, tmp_path, name):
    file = table(tmp_path, f"case_id,image\n{name},scans/p1.nii.gz\n", "MANIFEST.csv")
    with pytest.raises(DataError, match="output"):
        find_cases(file)
    file = table(tmp_path, f"case_id,image,output\na,scans/p1.nii.gz,{name}.nii.gz\n", "MANIFEST.csv")
    with pytest.raises(DataError, match="output"):
        find_cases(file)
    with pytest.raises(DataError):
        check_cases([BatchCase(name, Path("a.nii.gz"), [ObjectPrompt(text="x")])])


def test_cases_that_stand_in_each_others_way(folder, tmp_path):
    Image.new("L", (4, 4)).save(folder / "p1.png")
    with pytest.raises(DataError, match="several"):
        ask_prompts(find_cases(folder), table(tmp_path, "case,x,y\np1,1,2\n"), folder)
    (case,) = ask_prompts(find_cases(folder), table(tmp_path, "case,x,y\np1.png,1,2\n"), folder)
    assert case.image.name == "p1.png"
    with pytest.raises(DataError, match="one case id"):
        ask_texts(find_cases(folder), ["a"])
    one = BatchCase("a", Path("a.png"), [ObjectPrompt(text="x")], "m.png")
    with pytest.raises(DataError, match="one output"):
        check_cases([one, BatchCase("b", Path("b.png"), one.prompts, "m.png")])
    with pytest.raises(DataError, match="asks for nothing"):
        check_cases([BatchCase("a", Path("a.png"), [])])
    with pytest.raises(DataError, match="asks for nothing"):
        check_cases([BatchCase("a", Path("a.png"), one.prompts, labels=(1, 2))])
