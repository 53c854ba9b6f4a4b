"""The sample grid: the same seeds in every column, a method in every row."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from pqbench.report.tables.numbers import decimals, fixed
from pqbench.report.tables.results import distance_of
from pqbench.results.records import Manifest, Record
from pqbench.results.rows import Row, grouped

SMALLEST_SIDE = 64
"""Images are enlarged by a whole factor until their height is at least this many pixels."""

GAP = 4
MARGIN = 12
FONT_SIZE = 15
MOST_LINES = 4
INK, FAINT, PAPER, BAD = "#222222", "#777777", "#FFFFFF", "#C0392B"


def sample_grid(records: Iterable[Record], manifest: Manifest, folder: Path) -> bytes | None:
    """A PNG with a row for each method, full precision first; None where no record has samples.

    Reads each record's strip of images from `folder`. A row without images says why it has none.
    """
    groups = grouped(records, manifest)
    rows = [row for group in groups for row in group.rows]
    strips = [_strip(row, folder) for row in rows]
    if not any(strips):
        return None
    labels = [
        _label(row, distance_of(group, manifest), group.protocol if len(groups) > 1 else "")
        for group in groups
        for row in group.rows
    ]
    reasons = [_reason(row) for row in rows]
    return _png(
        _grid(labels, [strip and _enlarged(strip) for strip in strips], reasons, _image_width(manifest, strips))
    )


def _strip(row: Row, folder: Path) -> Image.Image | None:
    """The images of the row's first seed that has some."""
    for record in row.finished:
        if record.samples:
            try:
                with Image.open(folder / record.samples) as image:
                    return image.convert("RGB")
            except (OSError, UnidentifiedImageError):
                continue
    return None


def _image_width(manifest: Manifest, strips: list[Image.Image | None]) -> int:
    """Width of one enlarged image: square, unless the manifest gives the workload's shape."""
    height = next(strip.height for strip in strips if strip)
    shape = manifest.workload.get("shape")
    ratio = shape[2] / shape[1] if isinstance(shape, (list, tuple)) and len(shape) == 3 else 1.0
    return round(height * ratio) * _factor(height)


def _factor(height: int) -> int:
    return max(1, -(-SMALLEST_SIDE // height))


def _enlarged(strip: Image.Image) -> Image.Image:
    factor = _factor(strip.height)
    return strip.resize((strip.width * factor, strip.height * factor), Image.Resampling.NEAREST)


def _label(row: Row, distance: str, protocol: str) -> tuple[str, str]:
    """Two lines: the method, and what it is; its protocol where rows have different ones."""
    facts = [str(row.precision)] if row.precision.quantizes else ["full precision"]
    facts.append(f"{row.steps} steps")
    fd = row.estimate("fd")
    if fd is not None:
        facts.append(f"{distance} {fixed(fd.value, decimals([fd.value]))}" + (f" ({protocol})" if protocol else ""))
    return row.label, ", ".join(facts)


def _reason(row: Row) -> str:
    if row.finished:
        return "no images were kept"
    last = row.records[-1]
    return f"{last.status}: {last.reason}"


def _grid(
    labels: list[tuple[str, str]], strips: list[Image.Image | None], reasons: list[str], width: int
) -> Image.Image:
    font, small = _font(FONT_SIZE), _font(FONT_SIZE - 4)
    heights = [strip.height for strip in strips if strip]
    row_height = max(heights) + GAP
    left = MARGIN * 2 + round(max(max(font.getlength(name), small.getlength(facts)) for name, facts in labels))
    columns = max(strip.width // width for strip in strips if strip)
    size = (left + columns * (width + GAP) + MARGIN, 2 * MARGIN + len(strips) * row_height + FONT_SIZE)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for column in range(columns):
        centre = left + column * (width + GAP) + width // 2
        pen.text((centre, MARGIN), f"{column}", font=small, fill=FAINT, anchor="mm")
    pen.text((MARGIN, MARGIN), "same noise in each column", font=small, fill=FAINT, anchor="lm")
    for position, ((name, facts), strip, reason) in enumerate(zip(labels, strips, reasons, strict=True)):
        top = MARGIN + FONT_SIZE + position * row_height
        middle = top + row_height // 2
        pen.text((MARGIN, middle - 10), name, font=font, fill=INK, anchor="lm")
        pen.text((MARGIN, middle + 10), facts, font=small, fill=FAINT, anchor="lm")
        if strip is None:
            pen.text((left, middle), _wrapped(reason, small, sheet.width - left), font=small, fill=BAD, anchor="lm")
            continue
        for column in range(strip.width // width):
            tile = strip.crop((column * width, 0, (column + 1) * width, strip.height))
            sheet.paste(tile, (left + column * (width + GAP), top))
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text on as many lines as fit in a row, each at most `width` pixels long."""
    characters = max(10, int(width / font.getlength("n")))
    return textwrap.fill(" ".join(text.split()), characters, max_lines=MOST_LINES, placeholder=" …")


def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib carries the same font everywhere, so the grid does not depend on what a machine has installed.
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=True)
    return data.getvalue()
