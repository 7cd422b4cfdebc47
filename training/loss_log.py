# SPDX-License-Identifier: Apache-2.0
"""Losses of a training run: a CSV file, and curves drawn from it."""

import csv
from pathlib import Path

COLUMNS = (
    "step",
    "samples_l1",
    "samples_localization",
    "samples_pixels",
    "samples_centimetres",
    "samples_grounding",
    "held_out_l1",
    "held_out_localization",
    "held_out_pixels",
    "held_out_centimetres",
    "held_out_grounding",
    "held_out_pruned_l1",
    "seconds_per_step",
)


class LossLog:
    """One row per validation: the means of the training since the last one, and the held-out losses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._training: list[dict[str, float]] = []
        self._seconds: list[float] = []

    def trained(self, losses: dict[str, float], seconds: float) -> None:
        self._training.append(losses)
        self._seconds.append(seconds)

    def validated(self, step: int, held_out: dict[str, float]) -> None:
        row: dict[str, float] = {"step": step}
        names = {name for losses in self._training for name in losses}
        for name in names:
            values = [losses[name] for losses in self._training if name in losses]
            row[f"samples_{name}"] = sum(values) / len(values)
        row |= {f"held_out_{name}": value for name, value in held_out.items()}
        if self._seconds:
            row["seconds_per_step"] = sum(self._seconds) / len(self._seconds)
        self._training, self._seconds = [], []
        self._write([*self.rows(), {name: f"{row[name]:.6g}" for name in COLUMNS if name in row}])

    def rows(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="") as file:
            return list(csv.DictReader(file))

    def cut(self, step: int) -> None:
        """Forget what came after `step`, from which the training goes on."""
        self._write([row for row in self.rows() if int(float(row["step"])) <= step])

    def plot(self, path: Path) -> None:
        """Draw the curves to a PNG file."""
        from matplotlib.figure import Figure

        rows = self.rows()
        panels = (
            ("l1", "normalised L1 of the actions"),
            ("pixels", "localisation error, pixels"),
            ("centimetres", "goal error per coordinate, cm"),
            ("grounding", "the instruction's attention: divergence, nats"),
        )
        figure = Figure(figsize=(18, 4), layout="constrained")
        for axes, (name, label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            curves = {"training": f"samples_{name}", "held out": f"held_out_{name}"}
            if name == "l1":
                curves["held out, pruned"] = "held_out_pruned_l1"
            for (curve, column), style in zip(curves.items(), ("--", "-", ":"), strict=False):
                known = [row for row in rows if row[column]]
                axes.plot(
                    [float(row["step"]) for row in known], [float(row[column]) for row in known], style, label=curve
                )
            axes.set(xlabel="step", ylabel=label, ylim=(0, None))
            axes.grid(alpha=0.3)
            axes.legend()
        figure.savefig(path, dpi=120)

    def _write(self, rows: list[dict[str, str]]) -> None:
        with self._path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(rows)
