r"""The Markdown tables as LaTeX, for papers: what one says, the other says, since this is made of that.

Each table becomes a float with booktabs' rules, its headings as the caption, and what stands below it as notes. A file
is `\input` into any document that loads booktabs and graphicx; wide tables shrink to the line. Pictures are left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import PurePath

import pandas as pd

PACKAGES = ("booktabs", "graphicx")
"""What a document that holds our tables must load."""
LONGEST, WRAPPED = 40, "p{6cm}"
"""A column of text that is longer is so wide, and its text wrapped."""
_MEANS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", "`": r"\`{}",
    # After a row's end, these would be arguments of it.
    "[": "{[}", "*": "{*}",
    # Two of these would be one other sign.
    "-": "-{}", "'": "'{}", '"': '"{}', ",": ",{}", "?": "?{}", "!": "!{}",
    "±": r"$\pm$", "×": r"$\times$", "√": r"$\surd$", "σ": r"$\sigma$", "≥": r"$\geq$", "≤": r"$\leq$",
    "→": r"$\rightarrow$", "°": r"$^\circ$", "µ": r"$\mu$", "·": r"$\cdot$", "−": "$-$", "–": "--", "—": "---",
    "…": r"\ldots{}", "•": r"\textbullet{}", "†": r"\dag{}", "‡": r"\ddag{}",
    "“": "``", "”": "''", "‘": "`", "’": "'", "\N{NO-BREAK SPACE}": "~",
}  # fmt: skip
_ACCENTS = {"\u0300", "\u0301", "\u0302", "\u0303", "\u0308", "\u030a", "\u030c", "\u0327"}
"""Those that every LaTeX can put on a letter without another font."""
_JOINED = re.compile(r"([-'\",?!])\{\}(?![-'\",?!`])")
"""A sign that stands alone needs no such care."""
_INLINE = re.compile(r"\\([\\|`])|(&lt;)|\*\*(?=\S)(.+?)(?<=\S)\*\*|`([^`]+)`|(.)", re.DOTALL)
_CELL = re.compile(r"(?:\\.|[^|\\])+")


def beside(tables: Mapping[str, str]) -> dict[str, str]:
    """For each Markdown file among tables, by name, the LaTeX file of the same tables."""
    files = {name: PurePath(name).stem for name in tables if name.endswith(".md")}
    return {f"{stem}.tex": document(tables[name], stem) for name, stem in files.items()}


def document(markdown: str, name: str) -> str:
    """All tables of a Markdown document, whose headings are `#` to `###`; their labels are `tab:<name>-1` and so on."""
    label = re.sub(r"[^A-Za-z0-9-]+", "-", name)
    parts = [f"% Made by `bench tables`. It needs \\usepackage{{{','.join(PACKAGES)}}}."]
    headings, lead, open_float = [""], "", False
    blocks = [b for b in markdown.strip().split("\n\n") if not b.startswith("![")]
    for block, after in zip(blocks, [*blocks[1:], ""], strict=True):
        if match := re.match(r"(#+) ", block):
            headings = [*headings[: len(match[1]) - 1], block[match.end() :]]
            open_float = False
        elif block.startswith("|"):
            number = sum(r"\begin{table}" in part for part in parts) + 1
            caption = ": ".join(filter(None, [", ".join(headings[1:]) or headings[0], lead]))
            parts.append(_float(_tabular(block.splitlines()), inline(caption), f"tab:{label}-{number}"))
            lead, open_float = "", True
        elif block.endswith(":") and after.startswith("|"):
            lead = block.removesuffix(":")
        elif open_float:
            parts[-1] = parts[-1].replace(_END, f"\n\\par\\smallskip\n{_note(block)}{_END}")
        else:
            title = f"\\textbf{{{inline(headings[-1])}.}} " if len(headings) > 1 else ""
            parts.append(f"\\noindent{{\\footnotesize {title}{_note(block)}\\par}}")
    return "\n\n".join(parts) + "\n"


_END = "\n\\end{table}"


def _float(tabular: str, caption: str, label: str) -> str:
    return (
        f"\\begin{{table}}\n\\centering\\setlength{{\\tabcolsep}}{{4pt}}\n\\caption{{{caption}}}\n\\label{{{label}}}\n"
        f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{tabular.strip()}%\n}}\n"
        f"\\footnotesize\\raggedright{_END}"
    )


def _tabular(lines: Sequence[str]) -> str:
    header, rule, *rows = ([cell.strip() for cell in _CELL.findall(line)] for line in lines)
    shown = pd.DataFrame([[inline(cell) for cell in row] for row in rows], columns=range(len(header)))
    longest = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    align = "".join("r" if cell.endswith(":") else "l" if length <= LONGEST else WRAPPED
                    for cell, length in zip(rule, longest, strict=True))  # fmt: skip
    names = [inline(cell).replace("{", "{{").replace("}", "}}") for cell in header]  # pandas calls str.format on them
    return shown.to_latex(index=False, header=names, column_format=align, escape=False)


def _note(block: str) -> str:
    """A paragraph or a list, of which each point is a line."""
    return " \\\\\n".join(inline(line.removeprefix("- ")) for line in block.splitlines() if line)


def inline(text: str) -> str:
    """Markdown within a line: what `cells.safe` escaped, bold and code."""

    def shown(match: re.Match[str]) -> str:
        escaped, angle, bold, code, plain = match.groups()
        if bold or code:
            return f"\\textbf{{{inline(bold)}}}" if bold else f"\\texttt{{{escape(code)}}}"
        return escape("<" if angle else escaped or plain)

    return _JOINED.sub(r"\1", _INLINE.sub(shown, text))


def escape(text: str) -> str:
    """Text that stays text in LaTeX, whatever is in it; a letter that plain LaTeX has not becomes its code point."""
    return "".join(map(_character, text))


def _character(sign: str) -> str:
    if sign in _MEANS or " " <= sign <= "~":
        return _MEANS.get(sign, sign)
    parts = unicodedata.normalize("NFD", sign)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in _ACCENTS:
        return sign
    return " " if sign in "\n\t" else f"\\texttt{{U+{ord(sign):04X}}}"
