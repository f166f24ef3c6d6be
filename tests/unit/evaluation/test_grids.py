"""Tables with sections and footnotes: on the screen, in Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console

from medsam_adapter.evaluation.exports import latex_text, to_csv, to_latex, write_tables
from medsam_adapter.evaluation.grids import Cell, Grid, Row, print_grid, to_markdown

FIRST, SECOND = "the first note", "the second note"


@pytest.fixture
def grid():
    """Two sections; SECOND is met first in reading order within the rows, FIRST stands at a heading."""
    headings = tuple(Cell(f"organ_{i}", notes=(FIRST,) if i == 1 else ()) for i in range(8))
    rows = (
        Row("Published", (Cell("A & B"),), tuple(Cell("0.500") for _ in range(8))),
        Row("Measured", (Cell("c_d|e"),), (Cell("0.600", True), *[Cell()] * 6, Cell("0.7", notes=(SECOND,)))),
        Row("Measured", (Cell("f"),), (*(Cell("0.1") for _ in range(7)), Cell("0.2", notes=(FIRST, SECOND)))),
    )
    return Grid("Source", ("Method",), headings, rows, "A title", ("A remark.",), section_rows=True)


def printed(grid, width, is_terminal=True):
    out = io.StringIO()
    print_grid(grid, Console(file=out, width=width, force_terminal=is_terminal, color_system=None))
    return out.getvalue()


def test_notes_are_numbered_in_reading_order_once(grid):
    assert grid.footnotes == [FIRST, SECOND]
    assert grid.marks(grid.rows[2].cells[-1]) == "1,2" and grid.marks(Cell("x")) == ""


def test_markdown_has_a_column_of_sections(grid):
    lines = to_markdown(grid).splitlines()
    assert lines[0] == "**A title**"
    assert lines[2].startswith("| Source | Method | organ_0 | organ_1<sup>1</sup> |")
    assert lines[4].startswith("| Published | A & B | 0.500 |")
    assert lines[5] == "| Measured | c_d\\|e | **0.600** | - | - | - | - | - | - | 0.7<sup>2</sup> |"
    assert lines[6].endswith("0.2<sup>1,2</sup> |")
    assert f"<sup>2</sup> {SECOND}" in lines and "A remark." in lines


def test_a_wide_terminal_has_one_table_with_sections_on_their_own_lines(grid):
    text = printed(grid, 120)
    lines = [line.rstrip() for line in text.splitlines()]
    assert sum("Method" in line for line in lines) == 1
    assert " Published" in lines and " Measured" in lines and " A & B" == lines[lines.index(" Published") + 1][:6]
    assert f"² {SECOND}" in text and "A remark." in text


def test_digits_stand_below_each_other_beside_marks(grid):
    lines = printed(grid, 120).splitlines()
    ends = [line.rstrip(" ⁰¹²³⁴⁵⁶⁷⁸⁹˒") for line in lines if line.startswith((" c_d", " f "))]
    assert len({len(line) for line in ends}) == 1


def test_decimal_points_stand_below_each_other():
    texts = ("0.723", "0.7378", "10.5", "-")
    grid = Grid("S", ("N",), (Cell("IoU"),), tuple(Row("s", (Cell("m"),), (Cell(text),)) for text in texts))
    lines = [line for line in printed(grid, 60).splitlines() if "." in line]
    assert len(lines) == 3 and len({line.index(".") for line in lines}) == 1


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_gets_parts_that_fit(grid, width):
    text = printed(grid, width)
    assert max(map(len, text.splitlines())) <= width
    for i in range(8):
        assert text.count(f"organ_{i}") == 1
    num_parts = sum("Method" in line for line in text.splitlines())
    assert num_parts > 1 and text.count("A & B") == num_parts and text.count(" Published") == num_parts
    assert text.count("A title") == 1 and text.count(SECOND) == 1
    assert "organ_1¹" in text and "0.2¹˒²" in text  # numbers as in the whole table


def test_a_pipe_is_never_cut(grid):
    text = printed(grid, 40, is_terminal=False)
    assert sum("Method" in line for line in text.splitlines()) == 1
    assert all(f"organ_{i}" in text for i in range(8)) and "…" not in text


def test_brackets_are_not_taken_for_style():
    grid = Grid("S", ("N",), (Cell("h"),), (Row("s", (Cell("[bold]x"),), (Cell("1 [0, 2]"),)),))
    text = printed(grid, 80)
    assert "[bold]x" in text and "1 [0, 2]" in text


def test_latex_is_booktabs_and_escaped(grid):
    text = to_latex(grid)
    assert "\\caption{A title}" in text and "\\begin{tabular}{lrrrrrrrr}" in text
    assert "A \\& B & 0.500" in text and "c\\_d|e & \\textbf{0.600} & --" in text
    assert "\\multicolumn{9}{l}{\\emph{Published}} \\\\" in text
    assert "organ\\_1\\textsuperscript{1}" in text and f"\\textsuperscript{{2}} {SECOND}" in text
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    assert body.count("\\midrule") == 2
    rows = [line for line in body.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
    assert {line.replace("\\&", "").count("&") for line in rows} == {8} and len(rows) == 4
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1


def test_latex_specials():
    assert latex_text("a_b & 5 % $x #1 {y} ~ ^ \\ <0.001") == (
        "a\\_b \\& 5 \\% \\$x \\#1 \\{y\\} \\textasciitilde{} \\textasciicircum{} \\textbackslash{} \\textless{}0.001"
    )


def test_csv_has_numbers_and_notes_in_columns(grid):
    rows = list(csv.DictReader(io.StringIO(to_csv(grid))))
    assert [row["Source"] for row in rows] == ["Published", "Measured", "Measured"]
    assert (rows[1]["Method"], rows[1]["organ_0"], rows[1]["organ_1"]) == ("c_d|e", "0.600", "")
    assert rows[1]["Notes"] == SECOND and rows[2]["Notes"] == f"{FIRST} {SECOND}" and rows[0]["Notes"] == ""


def test_tables_of_a_folder(grid, tmp_path):
    write_tables(tmp_path / "new", [grid, grid], "name")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["name.csv", "name.md", "name.tex"]
    assert (tmp_path / "new/name.md").read_text().count("**A title**") == 2
    assert (tmp_path / "new/name.tex").read_text().count("\\begin{table}") == 2
    assert (tmp_path / "new/name.csv").read_text() == to_csv(grid)
