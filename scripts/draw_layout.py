# SPDX-License-Identifier: Apache-2.0
"""The rooms of the package as boxes on their floors (pyproject.toml's layers), and their imports as arrows."""

import re
import sys
import textwrap
import tomllib
from pathlib import Path

import grimp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
PACKAGE = "specprune_ros"
WIDTH, HEIGHT, FLOOR = 2.5, 0.7, 1.35  # of a box, and between floors
SIZE = (11.0, 9.5)  # inches
GROUND = 2  # floors at the bottom that everyone stands on: no arrows


def floors() -> list[list[str]]:
    """The layers of the import contract, top floor first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [re.findall(r"\w+", layer) for layer in layers]


def purpose(room: str) -> str:
    """The first sentence of a room's docstring."""
    path = ROOT / PACKAGE / room
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    sentence = source.partition('"""')[2].partition('"""')[0]
    return re.split(r"[.:;]\s|\.?$", sentence.splitlines()[0])[0].replace("`", "")


def main() -> int:
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    rooms = [[room for room in floor if f"{PACKAGE}.{room}" in graph.modules] for floor in floors()]
    rooms, ground = rooms[:-GROUND], [room for floor in rooms[-GROUND:] for room in floor]
    place = {
        room: ((index - (len(floor) - 1) / 2) * (WIDTH + 0.7), -level * FLOOR)
        for level, floor in enumerate(rooms)
        for index, room in enumerate(floor)
    }
    _, axes = plt.subplots(figsize=SIZE, layout="constrained")
    for room, imported in arrows(graph, list(place)):
        (x, y), end = place[room], place[imported]
        style = {"arrowstyle": "-|>", "color": "#7b8794", "lw": 1.0, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (end[0], end[1] + HEIGHT / 2), (x, y - HEIGHT / 2), arrowprops=style, zorder=0)
    for room, (x, y) in place.items():
        axes.add_patch(plt.Rectangle((x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, fc="#eef3f8", ec="#3d5a80"))
        axes.text(x, y + 0.14, room, ha="center", va="center", weight="bold", fontsize=12)
        axes.text(x, y - 0.15, _wrapped(purpose(room)), ha="center", va="center", fontsize=7.5, color="#444444")
    y, width = -len(rooms) * FLOOR, 3 * WIDTH + 1.4
    axes.add_patch(plt.Rectangle((-width / 2, y - HEIGHT / 2), width, HEIGHT, fc="#f5f5f2", ec="#8d8d80"))
    axes.text(0, y, "\n".join(textwrap.wrap(f"used everywhere: {', '.join(ground)}", 80)), ha="center", va="center")
    axes.set_axis_off()
    axes.autoscale_view()
    axes.set_aspect("equal")
    target = ROOT / "docs" / "layout.png"
    plt.savefig(target, dpi=110)
    print(target)
    return 0


def arrows(graph: grimp.ImportGraph, rooms: list[str]) -> list[tuple[str, str]]:
    """(importer, imported), without those that longer ways imply."""
    below = {room: {other for other in rooms if other != room and _imports(graph, room, other)} for room in rooms}
    reach: dict[str, set[str]] = {}
    for room in reversed(rooms):  # lower floors first
        reach[room] = below[room].union(*(reach[other] for other in below[room]))
    return [
        (room, other)
        for room in rooms
        for other in sorted(below[room])
        if not any(other in reach[between] for between in below[room] - {other})
    ]


def _imports(graph: grimp.ImportGraph, importer: str, imported: str) -> bool:
    """Whether a module of one room imports one of the other."""
    sources = {f"{PACKAGE}.{importer}"} | graph.find_descendants(f"{PACKAGE}.{importer}")
    targets = {f"{PACKAGE}.{imported}"} | graph.find_descendants(f"{PACKAGE}.{imported}")
    return any(graph.find_modules_directly_imported_by(source) & targets for source in sources)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 34)[:2])


if __name__ == "__main__":
    sys.exit(main())
