# SPDX-License-Identifier: Apache-2.0
"""Every constant of the method, with the paper's value as default (SpecPrune-VLA, arXiv 2509.05614 v3)."""

from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import yaml

from specprune_ros.errors import ConfigError
from specprune_ros.parameters import check, from_mapping, parameter

PRESETS = ("paper", "fast", "careful")
DEFAULT_PRESET = "paper"
ROBOT = ("control_rate", "metres_per_unit")  # facts about the robot, which belong to no preset
PATCHES = 256  # patches per view for which token counts are written; other grids scale by their share


@dataclass(frozen=True)
class PruningConfig:
    """Constants of the two-level pruning and its controller.

    Token counts are per view of 256 patches; layer numbers are 1-based, for a decoder of `depth` layers. Both are
    scaled to the model at hand (`pruning.schedule`). Raises ConfigError that names the field, its value and its range.
    """

    preset: str = parameter("", "name of the preset these values come from; empty when changed by hand")
    selection: str = parameter(
        "budget",
        "static selection: the paper's union, of varying size, or a fixed budget per mode, which runs fastest",
        choices=("union", "budget"),
    )

    # Static pruning (paper section 4.1)
    alpha: float = parameter(0.8, "scales the sizes of the three sets", minimum=0.05, maximum=4.0)
    global_tokens: int = parameter(30, "K_G: patches from the attention of earlier inferences", minimum=0, maximum=256)
    dynamic_tokens: int = parameter(20, "K_D: patches that changed most", minimum=0, maximum=256)
    local_tokens: int = parameter(24, "K_L: patches from each early layer of this inference", minimum=0, maximum=256)
    budget_tokens: int = parameter(94, "patches kept by the budget selection in coarse mode", minimum=1, maximum=256)
    fine_factor: float = parameter(
        40 / 24, "fine mode keeps this many times the tokens of coarse mode", minimum=1.0, maximum=8.0
    )
    similarity_threshold: float = parameter(
        0.996, "tau: a patch is dynamic when its cosine similarity is below this", minimum=0.0, maximum=1.0
    )
    local_layers: tuple[int, ...] = parameter((1, 2), "layers whose scores choose the local set", minimum=1)
    static_layer: int = parameter(2, "unselected patches are dropped after this layer", minimum=1)
    global_layers: tuple[int, ...] = parameter((15, 32), "layers whose mean score becomes the history", minimum=1)

    # Reference frame of the dynamic set: T = floor(frame_offset + frame_slope * v) + frame_margin control steps ago
    frame_offset: float = parameter(7.0, "b: control steps at rest", minimum=0.0, maximum=100.0)
    frame_slope: float = parameter(-1.0, "k: control steps per action unit of speed", minimum=-100.0, maximum=0.0)
    frame_margin: int = parameter(4, "control steps added after rounding", minimum=0, maximum=100)
    control_rate: float = parameter(20.0, "rate of the policy's action steps", minimum=0.1, maximum=1000.0, unit="Hz")
    metres_per_unit: float = parameter(
        0.05, "translation of one action unit in one step", minimum=1e-4, maximum=10.0, unit="m"
    )

    # Dynamic pruning (paper section 4.2)
    prune_layers: tuple[int, ...] = parameter(
        (5, 10, 15, 20), "layers after which the least important patches are dropped; [0] switches it off", minimum=0
    )
    update_layers: tuple[int, ...] = parameter((5, 10, 15, 20), "layers whose scores update the importance", minimum=0)
    keep_ratio: float = parameter(0.9, "share of patches kept at each of those layers", minimum=0.1, maximum=1.0)
    rank_slope: float = parameter(
        0.05, "k in sigmoid(-k rank); small enough that no two ranks tie in float32", minimum=1e-4, maximum=0.15
    )
    importance_rate: float = parameter(
        0.2, "beta: weight of a layer in the running importance", minimum=0.0, maximum=1.0
    )
    confidence: str = parameter(
        "entropy",
        "layer confidence: inverse entropy (v3), mean over std (v1), or none",
        choices=("entropy", "mean_std", "none"),
    )
    depth: int = parameter(32, "decoder depth that the layer numbers are written for", minimum=1, maximum=512)

    # Diffusion heads (ours): one pass of the decoder for every denoising step
    reselect: bool = parameter(
        False,
        "with a diffusion head, select patches anew in every denoising step, instead of keeping the first one's",
    )

    # History (ours; length 1 without refresh is the paper)
    history_length: int = parameter(1, "N: inferences whose scores make the global set", minimum=1, maximum=64)
    history_decay: float = parameter(
        1.0, "weight of an inference relative to the next newer one", minimum=0.0, maximum=1.0
    )
    history_motion: str = parameter(
        "none",
        "how the history follows the scene when a camera moves: not, by optical flow, or by TF over a plane",
        choices=("none", "flow", "tf"),
    )
    motion_plane_height: float = parameter(
        0.0, "history_motion tf: height of that plane in the base frame", minimum=-10.0, maximum=10.0, unit="m"
    )
    refresh_interval: int = parameter(0, "R: every R-th inference runs dense; 0 never", minimum=0, maximum=10000)
    scene_cut_share: float = parameter(
        0.9, "run dense when more than this share of a view's patches is dynamic; 1 never", minimum=0.0, maximum=1.0
    )

    # Action-aware controller (paper section 4.3). The authors compare commanded actions with 0.4 and 0.2
    # action units; here the motion is measured, and an arm does 0.23 of what it is commanded (docs/method.md).
    controller: bool = parameter(True, "choose coarse or fine by the measured velocity; otherwise always coarse")
    translation_threshold: float = parameter(
        0.1, "fine mode is entered below this speed of the end effector", minimum=0.0, maximum=10.0, unit="m/s"
    )
    rotation_threshold: float = parameter(
        0.5,
        "fine mode is entered below this angular speed of the end effector",
        minimum=0.0,
        maximum=100.0,
        unit="rad/s",
    )
    exit_factor: float = parameter(
        1.25, "fine mode is left above the threshold times this (hysteresis)", minimum=1.0, maximum=10.0
    )

    def __post_init__(self) -> None:
        check(self, "pruning")
        for name in ("local_layers", "global_layers", "prune_layers", "update_layers"):
            for layer in getattr(self, name):
                if layer > self.depth:
                    raise ConfigError(
                        f"pruning.{name} = {getattr(self, name)}: no layer {layer}; allowed: 1 to {self.depth}"
                    )
        for name in ("local_layers", "global_layers"):
            if not getattr(self, name):
                raise ConfigError(f"pruning.{name} is empty; give at least one layer")
        if max(self.local_layers) > self.static_layer or self.static_layer >= self.depth:
            raise ConfigError(
                f"pruning.static_layer = {self.static_layer} is outside the allowed range; allowed: "
                f"{max(self.local_layers)} (last of local_layers) to {self.depth - 1}"
            )
        for name in ("prune_layers", "update_layers"):
            early = [layer for layer in getattr(self, name) if 0 < layer <= self.static_layer]
            if early:
                raise ConfigError(
                    f"pruning.{name} = {getattr(self, name)}: layer {early[0]} is not behind static_layer; "
                    f"allowed: {self.static_layer + 1} to {self.depth}"
                )

        prune, update = [[n for n in layers if n > 0] for layers in (self.prune_layers, self.update_layers)]
        if prune and (not update or min(update) > min(prune)):
            raise ConfigError(
                f"pruning.update_layers = {self.update_layers}: layer {min(prune)} prunes before any update; "
                f"allowed: at least one layer up to {min(prune)}"
            )

    @classmethod
    def from_preset(cls, name: str) -> "PruningConfig":
        """The configuration of `presets/<name>.yaml`. Raises ConfigError for an unknown name."""
        if name not in PRESETS:
            raise ConfigError(f"pruning.preset = '{name}' does not exist; allowed: {', '.join(PRESETS)}")
        text = resources.files("specprune_ros.pruning").joinpath("presets", f"{name}.yaml").read_text()
        values = yaml.safe_load(text) or {}
        result: PruningConfig = from_mapping(cls, {"preset": name, **values}, "pruning")
        return result

    def on_robot_of(self, other: "PruningConfig") -> "PruningConfig":
        """This configuration with the other one's facts about the robot."""
        return replace(self, **{name: getattr(other, name) for name in ROBOT})

    def changed(self, values: dict[str, Any]) -> "PruningConfig":
        """This configuration with some values changed, and so no preset any more."""
        result: PruningConfig = replace(from_mapping(type(self), values, "pruning", base=self), preset="")
        return result
