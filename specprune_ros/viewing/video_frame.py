# SPDX-License-Identifier: Apache-2.0
"""One picture of an episode: every view with its kept patches, and beside it what the pruning did and why."""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib import font_manager
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from specprune_ros.policy import ActionChunk, Observation
from specprune_ros.pruning.schedule import Mode
from specprune_ros.viewing.mode_colors import MODE_COLORS
from specprune_ros.viewing.patch_drawing import draw_kept

TILE = 288  # px, side of a view
MARGIN = 12
CAPTION = 24  # px, height of a tile's caption
HEADER = 44
PANEL = 356  # px, width of the text beside the tiles
CHART = 170  # px, height of the chart of tokens per layer

NOTE = """Views are turned as the checkpoint sees them.
Dark blue: patches that were dropped so far, and
the margin that the centre crop removes."""
BACKGROUND, TEXT, FAINT, LINE = "#17181c", "#f0f0f0", "#a2a6b0", "#3a3d46"


@dataclass(frozen=True)
class Timing:
    """What the panel says beside the pruning report."""

    time: float  # seconds since motion was enabled
    age: float  # of the newest chunk's observation when the chunk was ready, seconds; nan when unknown
    real_time_factor: float  # nan when unknown


class VideoFrame:
    """Draws frames of one size. Columns are views; rows are the camera, the static selection, and the last layer."""

    def __init__(self, views: int, patch_grid: tuple[int, int], crop: float) -> None:
        """`patch_grid`: rows and columns of patches in a view. `crop`: share of each side that the policy sees."""
        self._grid, self._crop = patch_grid, crop
        tiles = views * (TILE + MARGIN)
        rows = 3 * (TILE + CAPTION)
        self._panel_left = tiles + MARGIN
        self.width = _even(self._panel_left + PANEL + MARGIN)
        self.height = _even(HEADER + rows + MARGIN)
        self._fonts = {size: _font("normal", size) for size in (13, 15, 17)} | {26: _font("bold", 26)}

    def draw(self, observation: Observation, chunk: ActionChunk | None, timing: Timing) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB. `chunk`: the newest one, None before the first inference."""
        picture = Image.new("RGB", (self.width, self.height), BACKGROUND)
        draw = ImageDraw.Draw(picture)
        draw.text((MARGIN, HEADER // 2), observation.instruction, TEXT, self._fonts[17], anchor="lm")
        for column, (name, frame) in enumerate(observation.views.items()):
            self._draw_view(picture, draw, column, name, frame, chunk)
        self._draw_panel(draw, chunk, timing)
        return np.asarray(picture)

    def _draw_view(
        self,
        picture: Image.Image,
        draw: ImageDraw.ImageDraw,
        column: int,
        name: str,
        frame: NDArray[np.uint8],
        chunk: ActionChunk | None,
    ) -> None:
        rows = [(f"{name} camera", frame)]
        if chunk is not None:
            report = chunk.pruning
            for stage, kept in (("static selection", report.kept_static), ("last layer", report.kept_final)):
                patches = kept[column]
                caption = f"{stage}: {len(patches)} of {report.patches[column]} patches"
                rows.append((caption, draw_kept(_tile(frame), patches, self._grid, self._crop)))
        left = MARGIN + column * (TILE + MARGIN)
        for row, (caption, image) in enumerate(rows):
            top = HEADER + row * (TILE + CAPTION)
            draw.text((left, top + CAPTION // 2), caption, FAINT, self._fonts[15], anchor="lm")
            picture.paste(Image.fromarray(_tile(image)), (left, top + CAPTION))

    def _draw_panel(self, draw: ImageDraw.ImageDraw, chunk: ActionChunk | None, timing: Timing) -> None:
        left, top = self._panel_left, HEADER + CAPTION
        top = self._rows(draw, top, [("simulated time", f"{timing.time:.2f} s"), *_pace(timing)])
        if chunk is None:
            draw.text((left, top + 10), "waiting for the first inference", FAINT, self._fonts[17])
            return
        report = chunk.pruning
        badge = (left, top + 6, left + PANEL, top + 58)
        draw.rounded_rectangle(badge, 8, MODE_COLORS[report.mode])
        draw.text((left + 14, top + 32), report.mode, "white", self._fonts[26], anchor="lm")
        draw.text((left + PANEL - 14, top + 32), report.reason.replace("_", " "), "white", self._fonts[15], anchor="rm")
        top = self._rows(draw, top + 72, _motion(chunk))
        top = self._rows(draw, top + 12, _timing(chunk, timing))
        top = self._rows(draw, top + 12, _selection(chunk))
        self._draw_tokens(draw, top + 18, report.tokens_per_layer)

    def _rows(self, draw: ImageDraw.ImageDraw, top: int, rows: list[tuple[str, str]]) -> int:
        """Label on the left, value on the right; returns where the next row starts."""
        for label, value in rows:
            draw.text((self._panel_left, top), label, FAINT, self._fonts[15])
            draw.text((self._panel_left + PANEL, top), value, TEXT, self._fonts[15], anchor="ra")
            top += 24
        return top

    def _draw_tokens(self, draw: ImageDraw.ImageDraw, top: int, tokens: tuple[int, ...]) -> None:
        """A bar per decoder layer."""
        left, right, font = self._panel_left, self._panel_left + PANEL, self._fonts[13]
        draw.text((left, top), "tokens per decoder layer", FAINT, self._fonts[15])
        bottom, width = top + 48 + CHART, PANEL / len(tokens)
        for layer, count in enumerate(tokens):
            height = CHART * count / max(tokens)
            x = left + layer * width
            draw.rectangle((x, bottom - height, x + max(width - 2, 1), bottom), LINE if layer % 2 else "#4a4e5a")
        draw.text((left, bottom - CHART - 4), f"{tokens[0]}", TEXT, font, anchor="ls")
        draw.text((right, bottom - CHART * tokens[-1] / max(tokens) - 4), f"{tokens[-1]}", TEXT, font, anchor="rs")
        draw.text((left, bottom + 6), "layer 1", FAINT, font)
        draw.text((right, bottom + 6), f"layer {len(tokens)}", FAINT, font, anchor="ra")
        draw.text((left, bottom + 40), NOTE, FAINT, font, spacing=5)


def _pace(timing: Timing) -> list[tuple[str, str]]:
    if math.isnan(timing.real_time_factor):
        return []
    return [("real-time factor", f"{timing.real_time_factor:.2f}")]


def _motion(chunk: ActionChunk) -> list[tuple[str, str]]:
    report = chunk.pruning
    if math.isnan(report.v_t):
        return [("end effector speed", "unknown")]
    return [
        ("end effector speed", f"{report.v_t:.2f} m/s"),
        ("vertical velocity", f"{report.v_z:+.2f} m/s"),
        ("angular speed", f"{report.v_r:.2f} rad/s"),
    ]


def _timing(chunk: ActionChunk, timing: Timing) -> list[tuple[str, str]]:
    rows = [("inference", f"{chunk.seconds * 1e3:.0f} ms")]
    if not math.isnan(timing.age):
        rows.append(("age of the observation (simulated)", f"{timing.age * 1e3:.0f} ms"))
    return [*rows, ("decoder FLOPs of dense", f"{chunk.pruning.flop_share:.0%}")]


def _selection(chunk: ActionChunk) -> list[tuple[str, str]]:
    report = chunk.pruning
    if report.mode in (Mode.OFF, Mode.DENSE):
        return [("selection", "none: every patch is kept")]
    rows = [("selection", f"{report.selection}, preset {report.preset or 'changed by hand'}")]
    for label, sizes in (("global", report.global_set), ("dynamic", report.dynamic_set), ("local", report.local_set)):
        rows.append((f"{label} set ({', '.join(report.views)})", ", ".join(str(size) for size in sizes)))
    return rows


def _tile(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if frame.shape[:2] == (TILE, TILE):
        return frame
    return np.asarray(Image.fromarray(frame).resize((TILE, TILE), Image.Resampling.BICUBIC))


def _font(weight: str, size: int) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings, so that the video looks the same everywhere."""
    path = font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight=weight))
    return ImageFont.truetype(path, size)


def _even(pixels: int) -> int:
    return pixels + pixels % 2  # H.264 with 4:2:0 colours needs even sides
