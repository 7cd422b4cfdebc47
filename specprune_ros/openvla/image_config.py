# SPDX-License-Identifier: Apache-2.0
"""Size and normalisation of the images that the towers see, from `config.json` and `preprocessor_config.json`."""

from pathlib import Path
from typing import NamedTuple

from specprune_ros.openvla.files import Fields, exists, read_json

NUM_TOWERS = 2


class PixelScale(NamedTuple):
    """Of one tower's pixels in [0, 1], per colour."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = PixelScale((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = PixelScale((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def image_size(config: Fields) -> int:
    """Side of the square images, pixels; both towers have the same. Raises CheckpointError."""
    sizes = config.counts("image_sizes", [224, 224])
    if len(set(sizes)) != 1:
        raise config.refuse("image_sizes", "both towers need one size, such as [224, 224]")
    return sizes[0]


def pixel_scales(folder: Path, size: int) -> tuple[PixelScale, PixelScale]:
    """Each tower's, from `preprocessor_config.json`; where the folder has none, those of the release.

    Raises CheckpointError for values of another kind, and for another size of the images.
    """
    path = folder / "preprocessor_config.json"
    if not exists(path):
        return IMAGENET, HALF
    fields = Fields(read_json(path), str(path))
    means = fields.numbers("means") or [list(IMAGENET.mean), list(HALF.mean)]
    stds = fields.numbers("stds") or [list(IMAGENET.std), list(HALF.std)]
    for name, values in (("means", means), ("stds", stds)):
        if len(values) != NUM_TOWERS or any(len(colors) != 3 for colors in values):
            raise fields.refuse(name, "it has to hold three numbers for each of the two towers")
    if min(map(min, stds)) <= 0:
        raise fields.refuse("stds", "they have to be above 0")
    if any(shape[-2:] != [size, size] for shape in fields.numbers("input_sizes")):
        raise fields.refuse("input_sizes", f"config.json has image_sizes {size}; copy both files again")
    first, second = (PixelScale(tuple(mean), tuple(std)) for mean, std in zip(means, stds, strict=True))
    return first, second
