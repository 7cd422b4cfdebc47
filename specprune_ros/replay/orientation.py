# SPDX-License-Identifier: Apache-2.0
"""Are the images turned as the checkpoint saw them in training? What to say of cameras whose motion says no."""

from collections.abc import Mapping
from dataclasses import dataclass

from specprune_ros.replay.camera_motion import CameraMotion, swapped
from specprune_ros.replay.finding import Finding

# What a transform does with an image: mirror it, and turn it upside down.
EFFECTS = {
    "none": (False, False),
    "flip_horizontal": (True, False),
    "rotate_180": (False, True),
    "flip_vertical": (True, True),
}
LIBERO = "libero"  # how the unnorm_keys begin whose training images were upright, but mirrored


def about_motion(motions: Mapping[str, CameraMotion], topics: Mapping[str, str], unnorm_key: str) -> list[Finding]:
    """What the motion in the images says about the cameras. `topics`: of the views' images."""
    found = [
        finding
        for view, motion in motions.items()
        if (finding := _about_turned(motion, topics[view], unnorm_key.startswith(LIBERO)))
    ]
    pair = swapped(motions)
    if pair:
        named, other = pair
        text = (
            f"the views {named} and {other} are swapped: while the arm moves, "
            f"{motions[named].still:.0%} of the pixels of {named} stand still and only "
            f"{motions[other].still:.0%} of those of {other}, which moves with the arm; check the remapping"
        )
        found.append(Finding("swapped_cameras", "error", text))
    return found


@dataclass(frozen=True)
class _Turned:
    """Images, mirrored or upside down; None: unknown."""

    mirrored: bool | None
    upside_down: bool | None

    def through(self, transform: str) -> "_Turned":
        mirrors, turns = EFFECTS[transform]
        return _Turned(
            None if self.mirrored is None else self.mirrored != mirrors,
            None if self.upside_down is None else self.upside_down != turns,
        )

    def transform_to(self, mirrored: bool) -> str:
        """That which makes them upright, and mirrored or not. What is unknown is taken to be right."""
        wanted = (bool(self.mirrored) != mirrored, bool(self.upside_down))
        return next(name for name, effect in EFFECTS.items() if effect == wanted)


def _about_turned(motion: CameraMotion, topic: str, libero: bool) -> Finding | None:
    images = _Turned(motion.mirrored, motion.upside_down)
    shown = images.through(motion.transform)  # to the policy
    # A transform that mirrors is right for training images that were; only of LIBERO's this is known.
    wrong = shown.mirrored is False if libero else bool(images.mirrored and shown.mirrored)
    if not (wrong or shown.upside_down):
        return None
    better = images.transform_to(mirrored=libero)
    if libero:
        advice = f"LIBERO's checkpoints were trained on upright, mirrored ones; set inputs.camera_transforms {better}"
    elif wrong:
        advice = f"check the camera's driver, or set inputs.camera_transforms {better}"
    else:
        advice = f"unless the checkpoint was trained on such images, set inputs.camera_transforms {better}"
    kind = "mirrored_image" if images.mirrored else "upside_down_image" if images.upside_down else "camera_transforms"
    text = (
        f"the images of the view {motion.view} on {topic} are {_words(images)}{_evidence(images, motion)}; "
        f"inputs.camera_transforms is {motion.transform} for it: {advice}"
    )
    return Finding(kind, "error" if libero or wrong else "warning", text)


def _words(images: _Turned) -> str:
    said = [word for word, true in (("mirrored", images.mirrored), ("upside down", images.upside_down)) if true]
    return " and ".join(said) or "not mirrored"


def _evidence(images: _Turned, motion: CameraMotion) -> str:
    said = []
    if images.mirrored:
        where = "back along the tool" if motion.on_arm else "up from below"
        said.append(f"they follow the arm over {motion.count} steps as if the camera looked {where}")
    if images.upside_down:
        said.append("what goes up goes down in them")
    return ": " + ", and ".join(said) if said else ""
