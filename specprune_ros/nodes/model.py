"""Loads the policy that `model.*` names, and checks that the other parameters fit it."""

import math

import torch

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.errors import CheckpointError, ConfigError
from specprune_ros.free_memory import available_bytes
from specprune_ros.nodes.parameters.groups import OF_CHECKPOINT, CheckpointConfig
from specprune_ros.openvla.checkpoint import auto_dtype
from specprune_ros.policy import Policy
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.sensing.config import InputsConfig

CROP = {OF_CHECKPOINT: None, "on": True, "off": False}
POSE_NUMBERS = 6  # position and axis-angle
GRIPPER_TOLERANCE = 0.25  # of an action; a proportional gripper need not reach its ends


def load_policy(model: CheckpointConfig, pruning: PruningConfig | None) -> Policy:
    """The policy of `model`, with `pruning` or dense. Raises CheckpointError or ConfigError."""
    if not model.checkpoint:
        raise ConfigError("model.checkpoint is empty; give the folder of an OpenVLA-OFT checkpoint")
    on_gpu = torch.cuda.is_available() if model.device == "auto" else model.device.startswith("cuda")
    device = ("cuda" if on_gpu else "cpu") if model.device == "auto" else model.device
    dtype = auto_dtype(device) if model.dtype == "auto" else model.dtype
    try:
        return Policy.from_checkpoint(
            model.checkpoint,
            device,
            dtype,
            model.unnorm_key or None,
            pruning if pruning is not None else "off",
            chunk_length=model.chunk_length or None,
            num_views=model.num_views or None,
            center_crop=CROP[model.center_crop],
            proprio_normalization=_stated(model.proprio_normalization),
            action_space=_stated(model.action_space),
            action_names=model.action_names or None,
            action_units=model.action_units or None,
            tile=model.tile,
            precision=model.precision,
        )
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise CheckpointError(
            f"not enough memory on {device} for {model.checkpoint} in {dtype}; free some, or set model.dtype bfloat16 "
            "or a smaller model.precision"
        ) from error


def _stated(value: str) -> str | None:
    return None if value == OF_CHECKPOINT else value


def check_fits(policy: Policy, inputs: InputsConfig, controller: ControllerConfig) -> None:
    """Raises ConfigError, which names the parameter, when cameras, proprio or actions do not fit the checkpoint."""
    if len(inputs.cameras) != policy.num_views:
        raise ConfigError(
            f"inputs.cameras has {len(inputs.cameras)} names ({', '.join(inputs.cameras)}); the checkpoint expects "
            f"{policy.num_views} views"
        )
    pose = POSE_NUMBERS if inputs.proprio == "end_effector" else 0
    joints = 0 if inputs.proprio == "none" else len(inputs.joint_names)
    if pose + joints != policy.proprio_dim:
        raise ConfigError(
            f"inputs.proprio {inputs.proprio} with {joints} inputs.joint_names gives {pose + joints} numbers; the "
            f"checkpoint expects {policy.proprio_dim}" + _joints_hint(policy.proprio_dim - pose, inputs)
        )
    if inputs.proprio == "end_effector" and not (inputs.base_frame and inputs.ee_frame):
        raise ConfigError("inputs.proprio end_effector needs inputs.base_frame and inputs.ee_frame")
    if controller.action_space != policy.action_space:
        raise ConfigError(
            f"controller.action_space is {controller.action_space}; the checkpoint predicts {policy.action_space}"
        )


def doubts(pruning: PruningConfig, controller: ControllerConfig) -> list[str]:
    """What `pruning.*` and `controller.*` say differently about the same thing, a line each.

    Both hold the policy's time step and length unit: the one to measure motion, the other to make it.
    """
    found = []
    rate = 1 / controller.step_duration
    if not math.isclose(pruning.control_rate, rate, rel_tol=0.01):
        found.append(
            f"pruning.control_rate is {pruning.control_rate:g} Hz, but controller.step_duration "
            f"{controller.step_duration:g} s means {rate:g} Hz; set both to the rate of the training data"
        )
    if controller.delta and not math.isclose(pruning.metres_per_unit, controller.metres_per_unit, rel_tol=0.01):
        found.append(
            f"pruning.metres_per_unit is {pruning.metres_per_unit:g}, but controller.metres_per_unit is "
            f"{controller.metres_per_unit:g}; set both to what an action of 1.0 means"
        )
    return found


def _joints_hint(missing: int, inputs: InputsConfig) -> str:
    return f": name {missing} joints" if missing >= 0 and inputs.proprio != "none" else ""


def gripper_doubt(policy: Policy, controller: ControllerConfig) -> str:
    """How the configured gripper actions contradict the training data, in one line; "" when they do not."""
    grippers = list(controller.gripper_dimensions)
    if not grippers:
        return ""
    low, high = (float(bound[grippers].mean()) for bound in policy.action_range)
    closed, opened = controller.gripper_closed_value, controller.gripper_open_value
    if abs(min(closed, opened) - low) <= GRIPPER_TOLERANCE and abs(max(closed, opened) - high) <= GRIPPER_TOLERANCE:
        return ""
    return (
        f"controller.gripper_closed_value is {closed:g} and gripper_open_value {opened:g}, but the training data's "
        f"gripper actions go from {low:.2g} to {high:.2g}; set what closes and what opens in the data"
    )


def memory_mb(device: torch.device) -> dict[str, float]:
    """Resident memory of this process and what torch holds on the policy's GPU, MiB."""
    with open("/proc/self/status") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    memory = {"resident MiB": resident / 1024}
    if device.type == "cuda":
        memory["GPU allocated MiB"] = torch.cuda.memory_allocated(device) / 2**20
        memory["GPU peak MiB"] = torch.cuda.max_memory_allocated(device) / 2**20
    return memory


def free_memory_mb(device: torch.device) -> dict[str, float]:
    """Memory that is left to this machine and to the policy's GPU, MiB."""
    free = {"free MiB": available_bytes() / 2**20}
    if device.type == "cuda":
        free["GPU free MiB"] = torch.cuda.mem_get_info(device)[0] / 2**20
    return free
