"""The paper's figures as printed, and which of our targets stand in which column."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from medsam_adapter.errors import DataError, PromptError
from medsam_adapter.evaluation.published.printed import FOLDER, average_note, footnotes, from_percent, printed_table
from medsam_adapter.evaluation.published.protocols import PAPER_PROTOCOLS, paper_protocol

PAPER = Path(__file__).parents[4] / "shared" / "paper"
AVERAGES = {"btcv_dice": "Ave", "amos_dice": "Avg"}
TABLES = (*AVERAGES, "multimodal")


@pytest.mark.skipif(not PAPER.is_dir(), reason="../shared/paper is not here")
@pytest.mark.parametrize("name", TABLES)
def test_shipped_figures_are_the_printed_ones(name):
    with (PAPER / f"{name}.csv").open(encoding="utf-8") as file:
        (_, *columns), *rows = csv.reader(file)
    table = printed_table(name)
    assert list(table.columns) == columns
    assert [[method, *figures.values()] for method, figures in table.rows.items()] == rows


@pytest.mark.parametrize(("name", "heading"), AVERAGES.items())
def test_footnotes_name_every_average_that_rounding_does_not_explain(name, heading):
    table, odd = printed_table(name), []
    for method, figures in table.rows.items():
        columns = [float(figure) for column, figure in figures.items() if column != heading]
        # Half a digit of the average, and at most half a digit of the mean of columns.
        if abs(float(figures[heading]) - sum(columns) / len(columns)) > 0.001 + 1e-9:
            odd.append(method)
    assert odd == footnotes()["averages"][name]
    assert all(bool(average_note(table, method)) == (method in odd) for method in table.rows)


def test_the_three_known_averages_are_kept_and_noted():
    for name, method, printed, mean in (
        ("amos_dice", "UNetr", "0.762", "0.787"),
        ("amos_dice", "SAM 1 point", "0.493", "0.501"),
        ("btcv_dice", "SAM 3 points", "0.631", "0.605"),
    ):
        assert printed_table(name).rows[method][AVERAGES[name]] == printed
        assert f"printed as {printed}; the mean of its printed columns is {mean}" in average_note(
            printed_table(name), method
        )


@pytest.mark.parametrize("protocol", PAPER_PROTOCOLS.values(), ids=PAPER_PROTOCOLS)
def test_columns_are_those_of_the_table(protocol):
    if not protocol.table:
        assert not protocol.published_rows() and "no figures" in protocol.remark
        return
    columns = [column.printed for column in protocol.columns] + ([protocol.average] if protocol.average else [])
    known = printed_table(protocol.table).columns
    assert set(columns) <= set(known)
    assert protocol.table == "multimodal" or tuple(columns) == known


def test_every_figure_is_in_a_protocol():
    used = {(p.table, c.printed) for p in PAPER_PROTOCOLS.values() for c in p.columns}
    used |= {(p.table, p.average) for p in PAPER_PROTOCOLS.values() if p.average}
    assert used - {("", "")} == {(name, column) for name in TABLES for column in printed_table(name).columns}


def test_percent_keep_their_digits():
    assert [from_percent(text) for text in ("80.1", "78.44", "77.0", "-")] == ["0.801", "0.7844", "0.770", "-"]
    rows = {row[0]: row[1] for row in paper_protocol("brain-tumor").published_rows()}
    assert rows["nnUNet"] == ["0.885", "0.806", "11.20"]  # HD95 is in mm, and has no percent


def test_rows_without_a_figure_are_left_out():
    assert "SAM 1 points" in [row[0] for row in paper_protocol("brain-tumor").published_rows()]
    assert "SAM 1 points" not in [row[0] for row in paper_protocol("thyroid").published_rows()]


def test_odd_columns_are_explained():
    btcv, amos = paper_protocol("btcv"), paper_protocol("amos22")
    assert btcv.columns[-1].targets == ("right adrenal gland", "left adrenal gland")
    assert "mean of the right and the left" in btcv.column_note("AG")
    assert (amos.columns[-1].heading, amos.columns[-1].targets) == ("Postc.", ("prostate or uterus",))
    assert "inferior vena cava" in amos.column_note("Postc.") and "position" in amos.column_note("Postc.")
    assert [c.targets for c in amos.columns if c.heading == "IVC"] == [("inferior vena cava",)]
    assert "percent" in paper_protocol("thyroid").remark
    for name, notes in footnotes()["columns"].items():
        assert set(notes) <= {column.heading for column in PAPER_PROTOCOLS[name].columns}


def test_every_layout_has_the_targets_of_its_protocol():
    from medsam_adapter.data.layouts import LAYOUTS

    for protocol in PAPER_PROTOCOLS.values():
        for layout in protocol.layouts:
            if layout in LAYOUTS:
                info = LAYOUTS[layout].INFO
                known = list(info.targets or info.labels.values())
                assert list(protocol.match(known)) == list(protocol.targets), layout


def test_targets_are_matched_whatever_their_spelling():
    found = paper_protocol("btcv").match(["Left_Kidney", "liver", "tumour", "inferior-vena cava"])
    assert found == {"left kidney": "Left_Kidney", "liver": "liver", "inferior vena cava": "inferior-vena cava"}


def test_a_data_set_without_any_target_is_refused(tmp_path):
    with pytest.raises(DataError, match="optic cup") as error:
        paper_protocol("optic-cup").matched(["nucleus"], tmp_path)
    assert "found: nucleus" in str(error.value) and str(tmp_path) in str(error.value)


def test_an_unknown_protocol_is_refused_with_the_nearest():
    with pytest.raises(PromptError, match="did you mean 'amos22'"):
        paper_protocol("amos")


def test_all_files_are_package_data():
    text = (Path(__file__).parents[3] / "setup.cfg").read_text()
    for suffix in {file.suffix for file in FOLDER.iterdir() if file.is_file()} - {".py"}:
        assert f"evaluation/published/*{suffix}" in text
