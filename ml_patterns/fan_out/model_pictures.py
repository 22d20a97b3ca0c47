"""One model as pictures, drawn when somebody asks.

Belongs here: calibration, importances and confusion matrix as SVG text. Does not: the leaderboard's
picture (`picture.py`), where the numbers come from (the recorded evidence and the card).
"""

from collections.abc import Mapping
from html import escape

import numpy as np

from ml_patterns.fan_out.metrics import Labels, Values

_INK, _GREY, _BLUE = "#1f2328", "#c4c9cf", "#1f6feb"
_BINS = 10
_MOST_FEATURES = 20


def model_pictures(
    importances: Mapping[str, float], answers: tuple[Labels, Values] | None, title: str
) -> dict[str, str]:
    """Every picture of a model by name, as SVG text.

    Args:
        answers: labels and predicted probabilities of the test slice; None: not judged yet.
    """
    pictures = {"importances": importances_svg(importances, title)}
    if answers:
        pictures["calibration"] = calibration_svg(*answers, title)
        pictures["confusion_matrix"] = confusion_svg(*answers, title)
    return pictures


def calibration_svg(labels: Labels, probabilities: Values, title: str) -> str:
    """How often each predicted probability came true: a circle per tenth, its area the rows.

    Args:
        labels: of the test slice, shape (rows,).
        probabilities: of the positive class, shape (rows,); NaN: not answered, left out.
    """
    answered = ~np.isnan(probabilities)
    labels, probabilities = labels[answered], probabilities[answered]
    side, left, top = 300, 60, 44
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    parts = [
        f'<line x1="{left}" y1="{top + side}" x2="{left + side}" y2="{top}" stroke="{_GREY}" '
        'stroke-dasharray="4 3"/>',
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="{_GREY}"/>',
    ]
    for tick in (0.0, 0.5, 1.0):
        parts += [
            _text(left + side * tick, top + side + 16, f"{tick:g}", "middle"),
            _text(left - 8, top + side * (1 - tick) + 4, f"{tick:g}", "end"),
        ]
    for number in np.unique(bins):
        inside = bins == number
        predicted, seen = float(probabilities[inside].mean()), float(labels[inside].mean())
        radius = 3 + 15 * float(np.sqrt(inside.mean()))
        parts.append(
            f'<circle cx="{left + side * predicted:.1f}" cy="{top + side * (1 - seen):.1f}" '
            f'r="{radius:.1f}" fill="{_BLUE}" fill-opacity="0.5" stroke="{_BLUE}">'
            f"<title>{int(inside.sum())} rows: predicted {predicted:.3f}, seen {seen:.3f}</title>"
            "</circle>"
        )
    parts += [
        _text(left + side / 2, top + side + 34, "predicted probability", "middle"),
        f'<text x="16" y="{top + side / 2}" text-anchor="middle" fill="{_INK}" '
        f'transform="rotate(-90 16 {top + side / 2})">share that came true</text>',
    ]
    return _picture(left + side + 30, top + side + 46, f"{title}: calibration", parts)


def importances_svg(importances: Mapping[str, float], title: str) -> str:
    """A bar per feature, longest first: its share of the gain of all splits."""
    ranked = sorted(importances.items(), key=lambda item: (-item[1], item[0]))[:_MOST_FEATURES]
    left, width, row, top = 190, 280, 20, 44
    longest = max((share for _, share in ranked), default=0.0) or 1.0
    parts = []
    for number, (name, share) in enumerate(ranked):
        y = top + row * number
        shown = name if len(name) <= 26 else f"{name[:25]}…"
        parts += [
            _text(left - 8, y + 12, shown, "end"),
            f'<rect x="{left}" y="{y + 2}" width="{width * share / longest:.1f}" '
            f'height="{row - 6}" fill="{_BLUE}"/>',
            _text(left + width * share / longest + 6, y + 12, f"{share:.1%}", "start"),
        ]
    height = top + row * len(ranked) + 10
    return _picture(left + width + 70, height, f"{title}: share of the gain", parts)


def confusion_svg(labels: Labels, probabilities: Values, title: str) -> str:
    """The four counts at 0.5; a cell is the darker, the larger its share of its row is."""
    answered = ~np.isnan(probabilities)
    labels, guessed = labels[answered], probabilities[answered] >= 0.5
    left, top, cell = 110, 70, 110
    parts = [_text(left + cell, top - 26, "predicted", "middle")]
    for column, name in enumerate(("negative", "positive")):
        parts.append(_text(left + cell * (column + 0.5), top - 8, name, "middle"))
    for row, actual in enumerate((False, True)):
        name = "positive" if actual else "negative"
        parts.append(_text(left - 8, top + cell * (row + 0.5) + 4, f"{name} in fact", "end"))
        of_row = int((labels == actual).sum())
        for column, said in enumerate((False, True)):
            count = int(((labels == actual) & (guessed == said)).sum())
            share = count / of_row if of_row else 0.0
            x, y = left + cell * column, top + cell * row
            parts += [
                f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="{_BLUE}" '
                f'fill-opacity="{0.08 + 0.5 * share:.2f}" stroke="#ffffff" stroke-width="2"/>',
                _text(x + cell / 2, y + cell / 2, f"{count:,}", "middle", size=16),
                _text(x + cell / 2, y + cell / 2 + 18, f"{share:.1%}", "middle"),
            ]
    return _picture(
        left + 2 * cell + 30, top + 2 * cell + 16, f"{title}: confusion matrix at 0.5", parts
    )


def _text(x: float, y: float, text: str, anchor: str, size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_INK}" '
        f'font-size="{size}">{escape(text)}</text>'
    )


def _picture(width: int, height: int, title: str, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" '
        f'fill="#ffffff"/>{_text(10, 20, title, "start", size=13)}'
    )
    return "".join([head, *parts, "</svg>"])
