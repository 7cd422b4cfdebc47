# SPDX-License-Identifier: Apache-2.0
"""Tables of what `gpu.py` measured: beside the prediction of docs/performance.md, and beside an older measurement."""

from collections.abc import Iterator
from typing import Any

STAGES = ("vision", "decoder", "selection")
PREDICTED_MS = {  # vision, decoder, selection, whole inference; written down before anything was measured
    "H100": {"dense": (2.6, 17.4, 0.0, 21.2), "paper": (2.6, 8.6, 0.75, 13.2), "fast": (2.6, 7.8, 0.75, 12.3)},
    "4090": {"dense": (7.4, 67.6, 0.0, 76.9), "paper": (7.4, 31.7, 0.8, 41.8), "fast": (7.4, 25.6, 0.8, 35.6)},
}
ROWS = {"dense": "dense", "paper": "paper coarse, tile 1", "fast": "fast coarse, tile 1"}
FAR_OFF = 0.2  # a row that is further from the prediction asks for an explanation
WORTH_TELLING = 0.03  # of a comparison


def markdown(result: dict[str, Any]) -> str:
    """The measured tables, for docs/performance.md."""
    where = result["machine"].get("gpu", result["machine"]["processor"])
    lines = [f"{where}, {result['dtype']}, {result['layers']} layers, torch {result['machine']['torch']}; command `"
             f"{result['machine']['command']}`, commit {result['machine']['commit']}.", ""]  # fmt: skip
    sections = result["sections"]
    rows = sections.get("latency", {}).get("rows", {})
    if rows:
        lines += [
            "| inference | p50, ms | p99, ms | speed-up | vision | decoder | selection | tokens in the last layer |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for name, row in rows.items():
            stages = " | ".join(f"{row['stages_ms'][s]:.2f}" if row["stages_ms"] else "" for s in STAGES)
            lines.append(
                f"| {name} | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {row['speedup']:.2f} | {stages} | "
                f"{row['tokens'][-1]} |"
            )
        lines += ["", *_beside_prediction(where, rows)]
    formats = {name: row for name, row in sections.get("precisions", {}).items() if "dense" in row}
    if formats:
        lines += ["| number format | weights, GB | dense, ms | paper, ms | fast, ms | speed-up of fast |"]
        lines += ["|---|---|---|---|---|---|"]
        for name, row in formats.items():
            times = [f"{row[label]['p50_ms']:.2f}" if "p50_ms" in row[label] else "failed" for label in ROWS]
            speedup = f"{row['fast']['speedup']:.2f}" if "speedup" in row["fast"] else ""
            lines.append(f"| {name} | {row['weights_GB']:.1f} | {' | '.join(times)} | {speedup} |")
        lines.append("")
    failed = [name for name, section in sections.items() if "failed" in section]
    return "\n".join([*lines, f"Sections that failed: {', '.join(failed)}." if failed else ""]).rstrip()


def _beside_prediction(where: str, rows: dict[str, Any]) -> Iterator[str]:
    card = next((card for card in PREDICTED_MS if card in where), None)
    if card is None:
        return
    yield "| | stage | predicted, ms | measured, ms | off by |"
    yield "|---|---|---|---|---|"
    for label, name in ROWS.items():
        if name not in rows:
            continue
        row = rows[name]
        measured = [*(row["stages_ms"][stage] for stage in STAGES), row["p50_ms"]]
        for stage, predicted, found in zip((*STAGES, "whole"), PREDICTED_MS[card][label], measured, strict=True):
            off = found / predicted - 1 if predicted else 0.0
            mark = " (explain)" if abs(off) > FAR_OFF else ""
            yield f"| {label} | {stage} | {predicted:.2f} | {found:.2f} | {off:+.0%}{mark} |"
    yield ""


def comparison(new: dict[str, Any], old: dict[str, Any]) -> str:
    """Every number that both files have, and how it changed; small changes are left out."""
    lines = [f"new: {new['machine'].get('gpu', 'CPU')}, {new['machine']['commit']}; "
             f"old: {old['machine'].get('gpu', 'CPU')}, {old['machine']['commit']}", ""]  # fmt: skip
    before = dict(_numbers(old["sections"]))
    common = [(path, before[path], value) for path, value in _numbers(new["sections"]) if before.get(path)]
    changed = [entry for entry in common if abs(entry[2] / entry[1] - 1) > WORTH_TELLING]
    lines += ["| what | old | new | new / old |", "|---|---|---|---|"] if changed else []
    lines += [f"| {path} | {was:.4g} | {now:.4g} | {now / was:.2f} |" for path, was, now in changed]
    lines.append(f"\n{len(common) - len(changed)} of {len(common)} numbers changed by less than {WORTH_TELLING:.0%}.")
    return "\n".join(lines)


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{path}, {key}" if path else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)
