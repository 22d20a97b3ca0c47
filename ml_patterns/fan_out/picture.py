"""The leaderboard as a picture.

Belongs here: SVG as text. Does not: the entries (`leaderboard.py`).
"""

import base64
from collections.abc import Callable, Sequence
from html import escape

from ml_patterns.branching.policy import Policy
from ml_patterns.fan_out.leaderboard import Entry

_COLOURS = {"deploy": "#2e7d32", "review": "#b26a00", "reject": "#b3261e", "none": "#757575"}
_ROW, _LEFT, _WIDTH, _TOP, _RIGHT = 18, 170, 480, 44, 60
_MOST = 60
_LABEL = 80


def leaderboard_svg(board: Sequence[Entry], policy: Policy) -> str:
    """A dot per region, a bar down to its lower confidence bound, the two thresholds as lines.

    Shows the best and the worst where there are too many regions for one screen.
    """
    shown, title = list(board), f"{policy.metric.replace('_', ' ')} by region"
    if len(shown) > _MOST:
        shown = [*shown[: _MOST // 2], *shown[-_MOST // 2 :]]
        title = f"{title}, the {_MOST // 2} best and the {_MOST // 2} worst of {len(board):,}"
    values = [value for entry in shown for value in _values(entry)]
    low = min([*values, policy.review_at, policy.deploy_at])
    high = max([*values, policy.review_at, policy.deploy_at])
    margin = (high - low or 1.0) * 0.05
    low, high = low - margin, high + margin

    def x(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * _WIDTH, 1)

    height = _TOP + _ROW * len(shown) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + _RIGHT}" '
        f'height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="10" y="16" font-size="13">{escape(title)}; bars reach down '
        f"to the {policy.confidence:.0%} lower bound</text>",
    ]
    close = abs(x(policy.deploy_at) - x(policy.review_at)) < _LABEL
    for name, threshold, beside in (
        ("review", policy.review_at, "end"),
        ("deploy", policy.deploy_at, "start"),
    ):
        at = x(threshold)
        parts.append(
            f'<line x1="{at}" x2="{at}" y1="{_TOP - 8}" y2="{height - 6}" '
            f'stroke="{_COLOURS[name]}" stroke-dasharray="4 3"/>'
            f'<text x="{at}" y="{_TOP - 12}" text-anchor="{beside if close else "middle"}" '
            f'fill="{_COLOURS[name]}">{name} {threshold:g}</text>'
        )
    for row, entry in enumerate(shown):
        parts.append(_line(entry, _TOP + _ROW * row + _ROW // 2, x))
    return "".join([*parts, "</svg>"])


def as_markdown(svg: str, name: str = "leaderboard") -> str:
    """The picture as the UI shows it: Markdown takes images, not SVG elements."""
    return f"![{name}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _values(entry: Entry) -> list[float]:
    return [value for value in (entry.value, entry.lower_bound) if value is not None]


def _line(entry: Entry, y: int, x: Callable[[float], float]) -> str:
    colour = _COLOURS[entry.verdict]
    text = entry.region if len(entry.region) <= 26 else f"{entry.region[:13]}…{entry.region[-12:]}"
    parts = [
        f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(text)}</text>',
    ]
    if entry.value is None:
        parts.append(f'<text x="{_LEFT}" y="{y + 4}" fill="{colour}">no value</text>')
        return "".join(parts)
    if entry.lower_bound is not None:
        parts.append(
            f'<line x1="{x(entry.lower_bound)}" x2="{x(entry.value)}" y1="{y}" y2="{y}" '
            f'stroke="{colour}" stroke-width="3" opacity="0.5"/>'
        )
    parts.append(
        f'<circle cx="{x(entry.value)}" cy="{y}" r="4" fill="{colour}"/>'
        f'<text x="{_LEFT + _WIDTH + 8}" y="{y + 4}">{entry.value:.3f}</text>'
    )
    return "".join(parts)
