"""Formulas between dollar signs as MathML, which browsers draw by themselves. A numbered one gets the anchor `eq-NUMBER`."""

import re
import unicodedata

from latex2mathml.converter import convert

CODE = re.compile(r"(^(?P<fence> *```+)[^\n]*\n.*?^(?P=fence) *$|`+[^`\n]*(?:\n[^`\n]+)?`+)", re.MULTILINE | re.DOTALL)
DISPLAYED = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"\$(?=\S)((?:\\.|[^$\\])+?)(?<=\S)\$(?!\d)")
TAG = re.compile(r"\\tag\{(\w+)\}")
VARIANT = re.compile(r'<(m\w+) mathvariant="(double-struck|script)">([^<]*)</\1>')  # which browsers no longer know
CITED = re.compile(r"\beqs?\. ((?:\(\d+[a-z]?\)(?:,? and |, |,\s| to |\s)?)+)")


def drawn(markdown: str) -> str:
    """The page with MathML in place of its formulas; code stays as it is."""
    pieces = CODE.split(markdown)  # text, code, the code's fence, text, ...
    return "".join(_formulas(piece) if i % 3 == 0 else piece for i, piece in enumerate(pieces) if i % 3 != 2)


def _formulas(text: str) -> str:
    return INLINE.sub(lambda m: _converted(m[1]), DISPLAYED.sub(lambda m: _displayed(m[1]), text))


def _converted(formula: str, display: str = "inline") -> str:
    drawn: str = convert(formula, display=display)
    drawn = drawn.replace('<mtext mathvariant="bold">', '<mtext style="font-weight: bold">')
    return VARIANT.sub(lambda m: f"<{m[1]}>{''.join(_styled(letter, m[2]) for letter in m[3])}</{m[1]}>", drawn)


def _styled(letter: str, variant: str) -> str:
    """The character that is this letter in another style, where there is one: some are older than the others and named shorter."""
    name = f"{variant.upper()} {unicodedata.name(letter).removeprefix('LATIN ').replace('LETTER ', '')}"
    for known in (f"MATHEMATICAL {name}", name):
        try:
            return unicodedata.lookup(known)
        except KeyError:
            continue
    return letter


def _displayed(formula: str) -> str:
    tag = TAG.search(formula)
    drawn = _converted(TAG.sub("", formula).strip(), "block")
    if not tag:
        return f'<div class="equation">{drawn}</div>'
    return f'<div class="equation" id="eq-{tag[1]}">{drawn}<span class="number">({tag[1]})</span></div>'


def linked(page: str, theory: str) -> str:
    """A built page in which `eq. (17)` leads to the equation; `theory`: the way from the page to that of the theory."""

    def leading(numbers: re.Match[str]) -> str:
        return re.sub(r"\((\d+[a-z]?)\)", rf'<a href="{theory}#eq-\1">(\1)</a>', numbers[0])

    return CITED.sub(leading, page)
