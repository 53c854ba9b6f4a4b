"""Labels beside points that cover neither one another nor the points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

DISTANCES = (16.0, 24.0, 36.0, 52.0, 75.0)
"""Pixels between a point and its label, tried in this order."""
DIRECTIONS = 16
POINT_RADIUS = 9.0


@dataclass(frozen=True)
class Label:
    """A text for the point (x, y), in data coordinates."""

    x: float
    y: float
    text: str
    colour: str


def place_labels(axes: Axes, labels: Sequence[Label], obstacles: Iterable[Bbox] = ()) -> None:
    """Write every label at the nearest free place around its point, with a thin line to it when that is not close.

    `obstacles` are boxes in pixels that must stay free as well. The axes' limits and the figure's layout must be final.
    """
    points = [axes.transData.transform((label.x, label.y)) for label in labels]
    taken = [_around(x, y, POINT_RADIUS) for x, y in points] + list(obstacles)
    for label, (x, y) in zip(labels, points, strict=True):
        text = axes.text(label.x, label.y, label.text, color=label.colour, ha="center", va="center", zorder=5)
        box = text.get_window_extent()
        dx, dy = _best_offset(x, y, box.width, box.height, taken, axes.bbox)
        at_x, at_y = axes.transData.inverted().transform((x + dx, y + dy))
        text.set_position((float(at_x), float(at_y)))
        taken.append(text.get_window_extent())
        if _gap(dx, dy, box.width, box.height) > DISTANCES[1]:
            _leader(axes, (x, y), (dx, dy), box)


def _best_offset(
    x: float, y: float, width: float, height: float, taken: Sequence[Bbox], bounds: Bbox
) -> tuple[float, float]:
    """The first free offset, nearest ones first; the least covered one where none is free."""

    def cost(offset: tuple[float, float]) -> float:
        box = Bbox.from_bounds(x + offset[0] - width / 2, y + offset[1] - height / 2, width, height)
        outside = box.width * box.height - _overlap(box, bounds)
        return outside + sum(_overlap(box, other) for other in taken)

    offsets = list(_offsets(width, height))
    free = (offset for offset in offsets if cost(offset) == 0)
    return next(free, None) or min(offsets, key=cost)


def _offsets(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Offsets of a label's centre: around the point, to the right first, ever farther away."""
    for distance in DISTANCES:
        for step in range(DIRECTIONS):
            angle = 2 * math.pi * (step // 2 if step % 2 == 0 else -(step + 1) // 2) / DIRECTIONS
            yield (distance + width / 2) * math.cos(angle), (distance + height / 2) * math.sin(angle)


def _around(x: float, y: float, radius: float) -> Bbox:
    return Bbox.from_bounds(x - radius, y - radius, 2 * radius, 2 * radius)


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(max(width, 0.0) * max(height, 0.0))


def _gap(dx: float, dy: float, width: float, height: float) -> float:
    """Pixels between the point and the label's box."""
    return math.hypot(max(abs(dx) - width / 2, 0), max(abs(dy) - height / 2, 0))


def _leader(axes: Axes, point: tuple[float, float], offset: tuple[float, float], box: Bbox) -> None:
    reach = max(abs(offset[0]) / (box.width / 2), abs(offset[1]) / (box.height / 2))
    end = [p + o * (1 - 1 / reach) for p, o in zip(point, offset, strict=True)]
    (x0, y0), (x1, y1) = (axes.transData.inverted().transform(each) for each in (point, end))
    axes.plot([x0, x1], [y0, y1], color="#9A9A9A", linewidth=0.6, zorder=1)
