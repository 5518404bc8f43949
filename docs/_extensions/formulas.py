"""Formulas as inline SVG, which need no downloads and no fonts and follow the theme's colour."""

import re
from functools import cache
from html import escape

from docutils import nodes

UNIT = 10  # drawing units per em
FRACTION, DISPLAYED = r"\frac", r"\dfrac"


@cache
def svg(formula):
    """Draw a formula with matplotlib, and return it as SVG aligned with the baseline of the surrounding text."""
    from matplotlib import rc_context
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser
    from matplotlib.path import Path
    from matplotlib.textpath import text_to_path

    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
    with rc_context({"mathtext.fontset": "stix"}):
        known = re.sub(r"\\(le|ge)\b", r"\\\1q", " ".join(formula.split()))  # matplotlib spells \le as \leq
        font, text = FontProperties(size=UNIT), f"${known}$"
        width, height, depth, *_ = MathTextParser("path").parse(text, 72, font)
        vertices, codes = text_to_path.get_text_path(font, text, ismath=True)
    scale = UNIT / text_to_path.FONT_SCALE
    path, last = [], None
    for (x, y), code in zip(vertices, codes):
        path.append(letters[code] if code != last or code in (Path.MOVETO, Path.CLOSEPOLY) else "")
        path.append("" if code == Path.CLOSEPOLY else f"{x * scale:.2f} {height - depth - y * scale:.2f} ")
        last = code
    em = [f"{size / UNIT:.2f}em" for size in (width, height, -depth)]
    style = f"width:{em[0]};height:{em[1]};vertical-align:{em[2]}"
    return (
        f'<svg class="formula" role="img" aria-label="{escape(formula)}" viewBox="0 0 {width:.2f} {height:.2f}" '
        f'style="{style}"><path fill="currentColor" d="{"".join(path)}"/></svg>'
    )


def visit_math(self, node):
    self.body.append(svg(node.astext()))
    raise nodes.SkipNode


def visit_math_block(self, node):
    self.body.append(f'<div class="formula">{svg(node.astext().replace(FRACTION, DISPLAYED))}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("svg", (visit_math, None), (visit_math_block, None))
    app.config.html_math_renderer = "svg"
    return {"parallel_read_safe": True}
