# SPDX-License-Identifier: Apache-2.0
"""Which sensors make an observation, and how old and how far apart they may be: the parameters `inputs.*`."""

import re
from dataclasses import dataclass
from functools import cached_property

from specprune_ros.errors import ConfigError
from specprune_ros.parameters import check, from_mapping, parameter, repeated
from specprune_ros.sensing.images import TRANSFORMS

JOINT_STATES, TF = "joint_states", "tf"  # the inputs beside the cameras, as parameters and messages call them


@dataclass(frozen=True)
class InputsConfig:
    """The parameters `inputs.*`."""

    cameras: tuple[str, ...] = parameter(
        ("primary", "wrist"),
        "Views in the checkpoint's order; view NAME is read from ~/image_NAME.",
        live=False,
    )
    image_transport: str = parameter(
        "raw",
        "raw reads sensor_msgs/Image from ~/image_NAME, compressed reads CompressedImage from ~/image_NAME/compressed.",
        choices=("raw", "compressed"),
        live=False,
    )
    camera_transforms: tuple[str, ...] = parameter(
        ("none",),
        "What turns an upright image into what the checkpoint saw in training: one for every camera, or one for all.",
        choices=tuple(TRANSFORMS),
        live=False,
    )
    resize_first: int = parameter(
        0,
        "Side in pixels to which frames are resized on arrival (bicubic), where the data's were before they were "
        "recorded: 256 for ALOHA; 0 leaves them to the policy, which resizes to what its towers take.",
        minimum=0,
        maximum=4096,
        unit="px",
        live=False,
    )
    proprio: str = parameter(
        "end_effector",
        "What the checkpoint's proprio is: end_effector is position, axis-angle, then joint_names (LIBERO: the two "
        "fingers); joints is joint_names alone (ALOHA); none for a checkpoint without proprio.",
        choices=("end_effector", "joints", "none"),
        live=False,
    )
    joint_names: tuple[str, ...] = parameter((), "Joints in the proprio, in the checkpoint's order.", live=False)
    base_frame: str = parameter("base_link", "TF frame in which the end effector's pose is expressed.", live=False)
    ee_frame: str = parameter("tool0", "TF frame of the end effector.", live=False)
    max_age: float = parameter(
        0.5,
        "Oldest image that is still used, and longest that the arm moves on without news of an input.",
        minimum=0.01,
        maximum=60.0,
        unit="s",
    )
    max_skew: float = parameter(
        0.1, "Largest difference of stamps within one observation.", minimum=0.001, maximum=10.0, unit="s"
    )
    own_limits: tuple[str, ...] = parameter(
        (),
        "Inputs with limits of their own, as INPUT.max_age=SECONDS or INPUT.max_skew=SECONDS; INPUT is image_NAME of a "
        "camera, joint_states or tf. A slow camera with a max_skew of its own does not hold up the others.",
    )
    frozen_after: float = parameter(
        3.0,
        "Warn when a camera sends the same picture for longer; 0 never, for simulated cameras, which have no noise.",
        minimum=0.0,
        maximum=3600.0,
        unit="s",
    )

    def __post_init__(self) -> None:
        if not self.cameras or len(set(self.cameras)) != len(self.cameras) or not all(map(_is_token, self.cameras)):
            raise ConfigError(
                f"inputs.cameras = {list(self.cameras)}; give every view a name of its own, of letters, digits and _"
            )
        if len(self.camera_transforms) not in (1, len(self.cameras)):
            raise ConfigError(
                f"inputs.camera_transforms has {len(self.camera_transforms)} entries for {len(self.cameras)} cameras; "
                "give one for all, or one for each"
            )
        twice = repeated(self.joint_names)
        if twice is not None:
            raise ConfigError(f"inputs.joint_names has {twice} twice; name each joint once, in the checkpoint's order")
        if self.base_frame and self.base_frame == self.ee_frame:
            raise ConfigError(
                f"inputs.base_frame and inputs.ee_frame are both {self.base_frame}; name the frame of the robot's base "
                "and that of its end effector"
            )
        _ = self._own_limits  # say now what is wrong with it

    def max_age_of(self, name: str) -> float:
        """Seconds, for an `image_input`, `JOINT_STATES` or `TF`."""
        return self._own_limits.get((name, "max_age"), self.max_age)

    def max_skew_of(self, name: str) -> float:
        """Seconds, for an `image_input`, `JOINT_STATES` or `TF`."""
        return self._own_limits.get((name, "max_skew"), self.max_skew)

    def own_skew_of(self, name: str) -> float:
        """Seconds; 0 for an input without a max_skew of its own."""
        return self._own_limits.get((name, "max_skew"), 0.0)

    @cached_property  # it is asked for in every control period
    def _own_limits(self) -> dict[tuple[str, str], float]:
        """(input, limit) -> seconds. Raises ConfigError that names the entry."""
        inputs, found = (*map(image_input, self.cameras), JOINT_STATES, TF), {}
        for entry in self.own_limits:
            wrong = f"inputs.own_limits: '{entry}'"
            match = re.fullmatch(r"\s*(\w+)\.(max_age|max_skew)\s*=\s*([0-9.eE+-]+)\s*", entry)
            name, limit, number = match.groups() if match else ("", "", "")
            try:
                seconds = float(number)
            except ValueError:
                raise ConfigError(
                    f"{wrong} is not INPUT.max_age=SECONDS or INPUT.max_skew=SECONDS; write tf.max_age=0.8"
                ) from None
            if name not in inputs:
                raise ConfigError(f"{wrong} names no input; known: {', '.join(inputs)}")
            try:
                check(from_mapping(InputsConfig, {limit: seconds, "own_limits": ()}, "inputs", base=self), "inputs")
            except ConfigError as error:
                raise ConfigError(f"{wrong}: {error}") from None
            found[name, limit] = seconds
        return found

    def transform_of(self, camera: str) -> str:
        if len(self.camera_transforms) == 1:
            return self.camera_transforms[0]
        return self.camera_transforms[self.cameras.index(camera)]


def image_input(camera: str) -> str:
    """How the parameters, topics and messages call a camera's images."""
    return f"image_{camera}"


def _is_token(name: str) -> bool:
    """Whether a name can be part of a topic's name."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None
