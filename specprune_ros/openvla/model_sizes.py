# SPDX-License-Identifier: Apache-2.0
"""The model's sizes, from config.json and the shapes of the weights, and whether they fit the robot's facts."""

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.config import DiffusionSteps, ModelConfig, TowerConfig, decoder_config
from specprune_ros.openvla.family import FamilyConfig
from specprune_ros.openvla.files import Fields
from specprune_ros.openvla.image_config import PixelScale, image_size
from specprune_ros.openvla.statistics import Normalizer
from specprune_ros.openvla.variant import Variant
from specprune_ros.openvla.weight_containers import Shapes
from specprune_ros.openvla.weight_map import HEAD_WRAPPER, TOWERS

# Attention heads and blocks by width: DINOv2 ViT-L/14, SigLIP so400m/14
RELEASE_HEADS = {1024: 16, 1152: 16}
RELEASE_BLOCKS = {1024: 24, 1152: 27}

PADDING = 64  # rows of the vocabulary behind the last token


def _size(shapes: Shapes, name: str, axis: int) -> int:
    """Length of one axis of a weight."""
    shape = shapes.get(name, ())
    if axis >= len(shape):
        found = f"has shape {shape}" if name in shapes else "is missing"
        raise CheckpointError(f"weight {name} {found}; the checkpoint is incomplete or of an unsupported variant")
    return shape[axis]


def model_config(
    fields: Fields,
    pixels: tuple[PixelScale, PixelScale],
    shapes: Shapes,
    components: dict[str, Shapes],
    variant: Variant,
    norm: Normalizer,
    family: FamilyConfig,
    steps: DiffusionSteps,
) -> ModelConfig:
    """`fields`: of config.json. `shapes`, `components`: of the model's weights, and of the components' beside them.

    Raises CheckpointError when they do not fit each other.
    """
    decoder = decoder_config(fields.object("text_config"))
    first, second = (_tower_config(fields, shapes, index, pixels[index]) for index in range(len(TOWERS)))
    action_dim, width, num_blocks = _head_sizes(components) if "action_head" in components else (0, 0, 0)
    config = ModelConfig(
        towers=(first, second),
        decoder=decoder,
        image_size=image_size(fields),
        projector_width=_size(shapes, "projector.fc1.weight", 0),
        action_dim=action_dim or len(norm.action.low),
        proprio_dim=_proprio_dim(components) if variant.proprio else 0,
        chunk_length=family.chunk_length,
        num_views=family.num_views,
        head_width=width,
        num_head_blocks=num_blocks,
        film=variant.film,
        head=variant.head,
        diffusion_steps=steps.inference,
        diffusion_steps_train=steps.train,
        action_token_end=decoder.vocab_size - fields.count("pad_to_multiple_of", PADDING),
    )
    _check_patches(config)
    _check_dimensions(config, norm, family)
    return config


def _head_sizes(components: dict[str, Shapes]) -> tuple[int, int, int]:
    """Action dimension, width and number of blocks of a continuous head's MLP."""
    head = "action_head."
    shapes = {head + HEAD_WRAPPER.sub("", name): shape for name, shape in components["action_head"].items()}
    blocks = {name.split(".")[2] for name in shapes if name.startswith(head + "mlp_resnet_blocks.")}
    return _size(shapes, head + "fc2.weight", 0), _size(shapes, head + "fc2.weight", 1), len(blocks)


def _proprio_dim(components: dict[str, Shapes]) -> int:
    shapes = {f"proprio_projector.{name}": shape for name, shape in components["proprio_projector"].items()}
    return _size(shapes, "proprio_projector.fc1.weight", 1)


def _tower_config(fields: Fields, shapes: Shapes, index: int, pixels: PixelScale) -> TowerConfig:
    prefix = TOWERS[index]
    width = _size(shapes, prefix + "pos_embed", 2)
    numbers = {name.removeprefix(prefix).split(".")[1] for name in shapes if name.startswith(prefix + "blocks.")}
    blocks = {int(number) for number in numbers if number.isdecimal()}
    there, whole = max(blocks, default=-1) + 1, RELEASE_BLOCKS.get(width)
    if whole and there != whole:  # the last one does not run: without it the one before would not, either
        raise CheckpointError(
            f"vision tower {index} has {there} of {whole} blocks; the checkpoint is incomplete, copy all of its weights"
        )
    stated = fields.counts("vision_num_heads", [])
    heads = stated[index] if index < len(stated) else RELEASE_HEADS.get(width)
    if not heads or width % heads:
        raise CheckpointError(f"the head count of vision tower {index} is unknown; set vision_num_heads in config.json")
    return TowerConfig(
        width=width,
        depth=max(there - 1, 0),
        num_heads=heads,
        mlp_width=_size(shapes, prefix + "blocks.0.mlp.fc1.weight", 0),
        patch_size=_size(shapes, prefix + "patch_embed.proj.weight", 2),
        num_patches=_size(shapes, prefix + "pos_embed", 1),
        num_registers=_size(shapes, prefix + "reg_token", 1) if index == 0 else 0,
        mean=pixels.mean,
        std=pixels.std,
    )


def _check_patches(config: ModelConfig) -> None:
    for prefix, tower in zip(TOWERS, config.towers, strict=True):
        if (config.image_size // tower.patch_size) ** 2 != tower.num_patches:
            raise CheckpointError(
                f"config.json: image_sizes {config.image_size} does not fit the {tower.num_patches} patches of "
                f"{prefix}pos_embed; copy config.json and the weights from the same checkpoint"
            )


def _check_dimensions(config: ModelConfig, norm: Normalizer, family: FamilyConfig) -> None:
    """The heads, the statistics and the family's names have to speak of the same robot."""
    pairs = (
        ("action head", config.action_dim, "action", len(norm.action.low)),
        ("proprio projector", config.proprio_dim, "proprio", len(norm.proprio.low)),
    )
    for head, of_head, group, of_statistics in pairs:
        if of_head != of_statistics:
            raise CheckpointError(
                f"the {head} has {of_head} {group} dimensions but dataset_statistics.json has {of_statistics}; "
                "choose an unnorm_key of this robot, or copy heads and statistics from the same checkpoint"
            )
    for name in ("action_names", "action_units"):
        entries = len(getattr(family, name))
        if entries != config.action_dim:
            raise CheckpointError(
                f"{name} has {entries} entries but the checkpoint has {config.action_dim} action dimensions; "
                f'set "{name}" in its config.json'
            )
