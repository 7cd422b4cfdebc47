# SPDX-License-Identifier: Apache-2.0
"""Every formula of docs/method.md, one function each, on plain lists of numbers."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

try:
    import cv2
except ImportError:  # only flow needs it: the other tests run where there is no OpenCV
    cv2 = None

from specprune_ros.camera import Camera
from specprune_ros.pruning.config import PruningConfig

PATCH = 14  # pixels


def rnd(x: float) -> int:
    return math.floor(x + 0.5)


def highest(values: Sequence[float], count: int, among: Iterable[int] | None = None) -> list[int]:
    """Indices of the `count` highest values; of equal ones the lower index comes first."""
    candidates = range(len(values)) if among is None else among
    return sorted(candidates, key=lambda i: (-values[i], i))[:count]


# Scaling


def set_size(config: PruningConfig, tokens: int, mode: str, patches: int) -> int:
    factor = config.fine_factor if mode == "fine" else 1.0
    return min(rnd(tokens * config.alpha * factor * patches / 256), patches)


def budget_per_view(config: PruningConfig, mode: str, patches: int) -> int:
    factor = config.fine_factor if mode == "fine" else 1.0
    return max(1, min(rnd(config.budget_tokens * factor * patches / 256), patches))


def global_layers(config: PruningConfig, num_layers: int) -> set[int]:
    return {max(1, rnd(layer * num_layers / config.depth)) for layer in config.global_layers}


def inner_layers(config: PruningConfig, layers: Iterable[int], num_layers: int) -> set[int]:
    """prune_layers or update_layers at the model's depth."""
    scaled = {max(config.static_layer + 1, rnd(layer * num_layers / config.depth)) for layer in layers if layer > 0}
    return {layer for layer in scaled if layer < num_layers}


def snapped(count: int, others: int, tile: int, most: int) -> int:
    """The number of patches nearest to `count`, the larger of two, that fills whole tiles with the other tokens."""
    fitting = [n for n in range(1, most + 1) if (n + others) % tile == 0]
    return min(fitting, key=lambda n: (abs(n - count), -n)) if fitting else most


# Scores


def patch_scores(attention: NDArray, instruction_rows: list[int], patch_columns: list[int]) -> list[float]:
    """Mean attention (heads, L, L) over heads and instruction tokens, for each patch."""
    heads = attention.shape[0]
    scores = []
    for column in patch_columns:
        total = float(attention[:, instruction_rows, column].sum())
        scores.append(total / (heads * len(instruction_rows)))
    return scores


# Motion of the scene. A displacement is (x, y) in patches for each patch of a view, back to an earlier frame.


def flow_displacement(image: NDArray[np.uint8], before: NDArray[np.uint8]) -> list[tuple[float, float]]:
    """By OpenCV's dense inverse search, preset medium, on grey images of about 112 pixels: medians of the patches."""
    (now, cell), (then, _) = grey_image(image), grey_image(before)
    grid = len(now) // cell
    if np.array_equal(now, then):
        return [(0.0, 0.0)] * (grid * grid)
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(now, then, None)
    displacement = []
    for top in range(0, grid * cell, cell):
        for left in range(0, grid * cell, cell):
            x, y = (float(np.median(flow[top : top + cell, left : left + cell, axis])) / cell for axis in (0, 1))
            displacement.append((x, y))
    return displacement


def plane_displacement(now: Camera, before: Camera, height: float, grid: int) -> list[tuple[float, float]]:
    """By two cameras that look at a horizontal plane; each patch's centre is followed to the plane and back."""
    if np.array_equal(now.pose, before.pose):
        return [(0.0, 0.0)] * (grid * grid)
    displacement = []
    for row in range(grid):
        for column in range(grid):
            centre = np.array([(column + 0.5) / grid, (row + 0.5) / grid, 1.0])
            ray = now.pose[:3, :3] @ np.linalg.solve(now.intrinsics, centre)
            steps = (height - now.pose[2, 3]) / ray[2] if ray[2] else -1.0
            point = np.append(now.pose[:3, 3] + steps * ray, 1.0)
            seen = before.intrinsics @ (np.linalg.inv(before.pose) @ point)[:3]
            if steps <= 0 or seen[2] <= 0:
                displacement.append((2.0 * grid, 2.0 * grid))
            else:
                moved = grid * (seen[:2] / seen[2] - centre[:2])
                displacement.append(tuple(float(np.clip(value, -2 * grid, 2 * grid)) for value in moved))
    return displacement


def in_steps(displacement: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The nearest multiples of a 64th of a patch."""
    return [(round(64 * x) / 64, round(64 * y) / 64) for x, y in displacement]


def grey_image(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """About 112 pixels a side, whole pixels per patch, and how many those are."""
    grid = image.shape[0] // PATCH
    cell = 112 // grid
    size = (grid * cell, grid * cell)
    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA), cell


def likelier(
    image: NDArray[np.uint8], before: NDArray[np.uint8], displacement: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    """The displacement where the grey patch looks more like what was there than like what was at its own place."""
    (now, cell), (then, _) = grey_image(image), grey_image(before)
    grid, last = len(now) // cell, len(now) - 1
    chosen = []
    for patch, (dx, dy) in enumerate(displacement):
        errors = []
        for right, down in ((round(dx * cell), round(dy * cell)), (0, 0)):
            rows = np.arange(patch // grid * cell, (patch // grid + 1) * cell)
            columns = np.arange(patch % grid * cell, (patch % grid + 1) * cell)
            new = now[rows][:, columns].astype(int)
            old = then[np.clip(rows + down, 0, last)][:, np.clip(columns + right, 0, last)].astype(int)
            errors.append(np.abs(new - old).sum())
        chosen.append((dx, dy) if errors[0] < errors[1] else (0.0, 0.0))
    return chosen


def moved_scores(scores: list[float], displacement: list[tuple[float, float]]) -> list[float]:
    """Each patch's score is read where it was: bilinearly between patches, 0 outside of the view."""
    grid = math.isqrt(len(scores))
    result = []
    for patch, (dx, dy) in enumerate(displacement):
        x, y = patch % grid + dx, patch // grid + dy
        total = 0.0
        for column in range(grid):
            for row in range(grid):
                total += scores[row * grid + column] * max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
        result.append(total)
    return result


# Static pruning


def cosine_similarity(
    image: NDArray[np.uint8], reference: NDArray[np.uint8], displacement: list[tuple[float, float]] | None = None
) -> list[float]:
    """Of each raw RGB patch with the same patch of the reference frame, row-major; or with what is displaced from it,
    to whole pixels, where the reference frame's border goes on without end. 1 where the centre was out of view."""
    similarity = []
    grid = image.shape[0] // PATCH
    for top in range(0, image.shape[0], PATCH):
        for left in range(0, image.shape[1], PATCH):
            dx, dy = displacement[len(similarity)] if displacement else (0.0, 0.0)
            x, y = left / PATCH + dx + 0.5, top / PATCH + dy + 0.5
            if not (0 <= x <= grid and 0 <= y <= grid):
                similarity.append(1.0)
                continue
            rows = np.clip(np.arange(top, top + PATCH) + round(dy * PATCH), 0, len(image) - 1)
            columns = np.clip(np.arange(left, left + PATCH) + round(dx * PATCH), 0, len(image) - 1)
            a = image[top : top + PATCH, left : left + PATCH].astype(np.float64).ravel()
            b = reference[rows][:, columns].astype(np.float64).ravel()
            if np.array_equal(a, b):  # black patches too
                similarity.append(1.0)
            elif not a.any() or not b.any():
                similarity.append(0.0)
            else:
                similarity.append(float(a @ b / math.sqrt((a @ a) * (b @ b))))
    return similarity


def reference_delay(config: PruningConfig, speed: float) -> float:
    """Seconds between now and the wanted reference frame. `speed`: m/s."""
    units = speed / (config.control_rate * config.metres_per_unit)
    steps = max(1, math.floor(config.frame_offset + config.frame_slope * units) + config.frame_margin)
    return steps / config.control_rate


def global_set(config: PruningConfig, mode: str, history: list[float]) -> set[int]:
    count = set_size(config, config.global_tokens, mode, len(history))
    return set(highest(history, count, [i for i, value in enumerate(history) if value > 0]))


def dynamic_set(config: PruningConfig, mode: str, similarity: list[float]) -> set[int]:
    count = set_size(config, config.dynamic_tokens, mode, len(similarity))
    candidates = [i for i, value in enumerate(similarity) if value < config.similarity_threshold]
    return set(highest([-value for value in similarity], count, candidates))


def local_set(config: PruningConfig, mode: str, local_scores: list[list[float]]) -> set[int]:
    """`local_scores`: per local layer, per patch of the view."""
    chosen: set[int] = set()
    for scores in local_scores:
        chosen |= set(highest(scores, set_size(config, config.local_tokens, mode, len(scores))))
    return chosen


def budget_order(
    config: PruningConfig, mode: str, sets: list[set[int]], history: list[float], local_scores: list[list[float]]
) -> list[int]:
    """All patches of a view, the first to keep first."""
    with_history = set_size(config, config.global_tokens, mode, len(history)) > 0
    with_local = set_size(config, config.local_tokens, mode, len(history)) > 0
    asked = ([history] if with_history else []) + (local_scores if with_local else [])
    if not asked:
        asked = [history, *local_scores]
    shares = [[value / sum(scores) for value in scores] for scores in asked if sum(scores) > 0]
    patches = range(len(history))
    attention = [sum(share[i] for share in shares) for i in patches]
    votes = [sum(i in members for members in sets) for i in patches]
    return sorted(patches, key=lambda i: (-votes[i], -attention[i], i))


# Dynamic pruning


def rank_weights(config: PruningConfig, scores: dict[int, float]) -> dict[int, float]:
    """`scores`: of the patches alive, by patch index."""
    order = sorted(scores, key=lambda i: (-scores[i], i))
    weight = {i: 1 / (1 + math.exp(config.rank_slope * rank)) for rank, i in enumerate(order)}
    total = sum(weight.values())
    return {i: value / total for i, value in weight.items()}


def confidence(
    config: PruningConfig, attention: NDArray, instruction_rows: list[int], patch_columns: list[int]
) -> float:
    """w_conf of one layer of a dense inference."""
    if config.confidence == "none":
        return 1.0
    if config.confidence == "mean_std":
        scores = np.array(patch_scores(attention, instruction_rows, patch_columns))
        return float(scores.mean() / scores.std())
    entropies = []
    for head in range(attention.shape[0]):
        for row in instruction_rows:
            weights = attention[head, row, patch_columns]
            weights = weights / weights.sum()
            entropies.append(-sum(w * math.log(w) for w in weights if w > 0))
    return 1 / (sum(entropies) / len(entropies) + 1e-6)


# History


def rolling_history(config: PruningConfig, past: list[list[float]]) -> list[float]:
    """`past`: the patches' scores of earlier inferences, the newest first."""
    weights = [config.history_decay**age for age in range(config.history_length)]
    total = [0.0] * len(past[0])
    for scores, weight in zip(past[: config.history_length], weights, strict=False):
        total = [sum_ + weight * score for sum_, score in zip(total, scores, strict=True)]
    return [value / sum(weights) for value in total]
