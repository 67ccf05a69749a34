"""How the figures of the report look, and how they are written.

Text and lines are drawn in ``INK`` and ``LINE``. They suit white paper; in the SVG they become CSS
variables, so that the same figure is readable on a dark page. Hues are those of Okabe and Ito,
which colour-blind readers can tell apart; markers repeat what the hue says.
"""

from __future__ import annotations

import re
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK, LINE = "#27303f", "#d4dae3"
HUES = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8a6d3b", "#7f7f7f")
MARKERS = "osD^vPX*"
HEAT = LinearSegmentedColormap.from_list("heat", ["#f3f7fb", "#a9cde8", "#3f8fcb", "#0b3c6f"])
NAME_LENGTH = 24
_STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "conpet",
}
styled = mpl.rc_context(_STYLE)
_TIGHT: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.06}


def hue(place: int) -> str:
    return HUES[place % len(HUES)]


def marker(place: int) -> str:
    """Shifted by one in the second round of hues, so that no two groups look alike."""
    return MARKERS[(place + place // len(HUES)) % len(MARKERS)]


@styled
def to_png(figure: Figure) -> bytes:
    """White paper, 160 dots an inch, the same bytes each time."""
    out = BytesIO()
    about = {"Software": None}
    figure.savefig(out, format="png", dpi=160, facecolor="white", metadata=about, **_TIGHT)
    return out.getvalue()


@styled
def to_svg(figure: Figure, title: str) -> str:
    """An ``<svg>`` element that scales with its page, follows its colours, asks nothing outside."""
    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, **_TIGHT)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[a-zA-Z0-9]+_\d+"', "", svg)  # element names, the same in every figure
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    return svg.replace(INK, "var(--ink)").replace(LINE, "var(--line)")


def shorten(name: str, length: int = NAME_LENGTH) -> str:
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def sentence(text: str) -> str:
    """With a capital first letter, the others as they are."""
    return text[:1].upper() + text[1:]
