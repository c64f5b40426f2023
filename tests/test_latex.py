"""Tables as LaTeX: the same figures, hostile text inert, and files that a real LaTeX takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shell import bench
from synthetic import scored, showcase, spec

from bench import benchmarks, cells, frames, latex, records
from bench.tables import render

HOSTILE = [
    "a_b%&<>", "[5pt] x", "* x", "$x$", r"\input{/etc/passwd}", r"\end{table}", r"a\\b", "#1", "~^{}", "x|y", "`x`",
    "--set", "'' ,, ?` !` <<", '"quoted"', "é ± × √ σ — – … ≥", "漢字 \N{GRINNING FACE} ﬁ þ", "**x**", "a\nb\tc", "**",
    "**a", " [x", "\u202e\u2028\x00", "% \\", "&lt;", "x\\",
]  # fmt: skip


def rows_of(tex: str) -> list[list[str]]:
    """The cells of the first tabular; an escaped & separates nothing."""
    inside = tex.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    lines = [line for line in inside.splitlines() if line.strip() and line != r"\midrule"]
    assert all(line.endswith(r"\\") for line in lines)
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))] for line in lines]


def table(*texts: str) -> str:
    """A document of one table that has these texts in its first column, in a header and in a note."""
    frame = pd.DataFrame({"method": texts, "ours": "1"})
    header = " ".join(texts)
    return (
        f"# {cells.safe(header)}\n\n{cells.table(frame.rename(columns={'ours': header}), ('method',))}\n\n"
        f"Note: {cells.safe(header)}\n"
    )


@pytest.fixture(scope="session")
def pdflatex() -> str:
    """A LaTeX with the packages that our tables need."""
    program = shutil.which("pdflatex")
    if not program:
        pytest.skip("no pdflatex is here; the structure of tables is tested without it")
    found = subprocess.run(["kpsewhich", "booktabs.sty", "graphicx.sty"], capture_output=True, text=True)
    if len(found.stdout.split()) < 2:
        pytest.skip("this LaTeX lacks booktabs or graphicx; the structure of tables is tested without it")
    return program


def compiled(program: str, folder: Path, *parts: str) -> str:
    """Compile documents' text in one article; the log."""
    body = "\n\\clearpage\n".join(parts)
    text = (
        f"\\documentclass{{article}}\n\\usepackage{{booktabs,graphicx}}\n\\begin{{document}}\n{body}\n\\end{{document}}"
    )
    (folder / "paper.tex").write_text(text, encoding="utf-8")
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300)
    log = (folder / "paper.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-3000:]
    return log


def test_rows_and_figures_are_those_of_the_markdown() -> None:
    made = render(showcase(), "s")["s.md"]
    tex = latex.document(made, "s")
    tables = re.findall(r"(?:^\|.*\n)+", made, re.MULTILINE)
    assert tex.count(r"\begin{table}") == tex.count(r"\end{tabular}") == len(tables)
    assert [int(n) for n in re.findall(r"\\label\{tab:s-(\d+)\}", tex)] == [*range(1, len(tables) + 1)]
    for markdown, part in zip(tables, tex.split(r"\begin{table}")[1:], strict=True):
        lines = markdown.splitlines()
        rows = rows_of(part)
        assert len(rows) == len(lines) - 1
        assert {len(row) for row in rows} == {len(lines[1].strip("|").split("|"))}
        assert re.findall(r"\d+\.\d+", markdown) == re.findall(r"\d+\.\d+", part.partition(r"\toprule")[2].partition(
            r"\bottomrule")[0])  # fmt: skip
        align = re.search(r"\\begin\{tabular\}\{(.+)\}", part)
        assert align
        expected = "".join("r" if rule.endswith(":") else "l" for rule in lines[1].strip("|").split("|"))
        assert align[1].replace(latex.WRAPPED, "l") == expected


def test_headings_are_captions_and_notes_stay_with_their_table() -> None:
    parts = ["# t", "How to read it.", "## copy", "Bits:", "| a |\n|:--|\n| 1 |", "- (a) why\n- (b) not", "![x](y.png)",
             "## lake", "Nothing yet.\n"]  # fmt: skip
    tex = latex.document("\n\n".join(parts), "my suite")
    assert r"\caption{copy: Bits}" in tex
    assert r"\label{tab:my-suite-1}" in tex
    assert "(a) why \\\\\n(b) not\n\\end{table}" in tex
    assert "png" not in tex
    assert r"\textbf{lake.} Nothing yet." in tex
    assert tex.index("How to read it.") < tex.index(r"\begin{table}")


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_others_is_inert(text: str) -> None:
    """Once every escape is taken away, nothing is left that LaTeX would act on."""
    rows = rows_of(latex.document(table(text, "plain"), "t"))
    assert [len(row) for row in rows] == [2, 2, 2]
    left = re.sub(r"\\(textbackslash|textasciicircum|textasciitilde|ldots|`)\{\}|\\[{}&%$#_]|\\texttt\{U\+[0-9A-F]+\}"
                  r"|\$(\\[a-z]+|[<>|-]|\^\\circ)\$|\{[*[]\}|[-'\",?!]\{\}|\\textbf\{[^{}]*\}",
                  "", rows[1][0])  # fmt: skip
    assert not re.search(r"[\\{}$&#%_^~]", left.replace("--", "")), (rows[1][0], left)
    assert not left.lstrip().startswith(("[", "*"))


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_escaped_text_has_balanced_braces_and_known_letters(text: str) -> None:
    made = latex.escape(text)
    bare = made.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert "\n" not in made
    assert not set(re.findall(r"\\[a-z]+", made)) - set(
        re.findall(r"\\[a-z]+", "".join(latex._MEANS.values()) + r"\texttt")
    )


@settings(max_examples=200)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20))
def test_a_cell_comes_back_from_markdown_as_it_went_in(text: str) -> None:
    """Bold apart, which tables may use, and what Markdown itself cannot tell from an angle bracket."""
    if "**" in text or "&lt;" in text or not text.isprintable() or text != text.strip():
        return
    rows = rows_of(latex.document(table(text or "x"), "t"))
    assert rows[1][0] == latex.inline(cells.safe(text or "x"))
    assert rows[1][0].replace("{}", "") == latex.escape(text or "x").replace("{}", "")


def test_bold_and_code() -> None:
    assert (
        latex.inline("**98.04** of `a_b` and 2 ** 3 ** 4") == r"\textbf{98.04} of \texttt{a\_b} and 2 {*}{*} 3 {*}{*} 4"
    )


def test_the_same_records_give_the_same_bytes_in_any_order() -> None:
    made = showcase()
    one, two = (latex.beside(render(r, "s")) for r in (made, made[::-1]))
    assert one == two
    assert list(one) == ["s.tex"]


def test_tables_of_records_and_of_hostile_names_compile(
    pdflatex: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "_changed", lambda method, values: set())
    named = [scored(spec("mann", "omniglot", fields={"note": text}), 0.5) for text in HOSTILE]
    tables = [render(named, "hostile")["hostile.md"], render(showcase(), "s")["s.md"], table(*HOSTILE)]
    log = compiled(pdflatex, tmp_path, *(latex.document(t, f"t{i}") for i, t in enumerate(tables)))
    assert "Missing character" not in log
    assert "Undefined" not in log


def test_committed_tables_compile(pdflatex: str, tmp_path: Path) -> None:
    folder = Path(__file__).parent.parent / "results"
    found = records.load(folder).records
    tables = {"all.md": render(found, "all")["all.md"]} | benchmarks.render(benchmarks.load(folder))
    compiled(pdflatex, tmp_path, *latex.beside(tables).values())


def test_tables_writes_checks_and_names_stale_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = scored(spec("chance", "lake"), 0.05)
    records.write(tmp_path, records.Record(**made))
    assert bench(capsys, "tables", "--results", tmp_path).code == 0
    path = tmp_path / "tables" / "other.tex"
    before = path.read_bytes()
    assert b"95.00" in before
    assert bench(capsys, "tables", "--check", "--results", tmp_path).code == 0
    path.write_bytes(before.replace(b"95.00", b"94.00"))
    said = bench(capsys, "tables", "--check", "--results", tmp_path)
    assert said.code == 1
    assert f"stale: {path}" in said.out
    bench(capsys, "tables", "--results", tmp_path)
    assert path.read_bytes() == before
    (tmp_path / "tables" / "gone.tex").write_text("")
    assert (
        "gone.tex is of no suite here that has records" in bench(capsys, "tables", "--check", "--results", tmp_path).out
    )
