# SPDX-License-Identifier: Apache-2.0
"""Loads the policy that `model.*` names, shares its weights, and tells the memory that it takes and leaves."""

import threading
from collections.abc import Hashable
from dataclasses import fields

import torch

from specprune_ros.checkpoint_config import CheckpointConfig
from specprune_ros.checks import Check
from specprune_ros.doctor.report import examine
from specprune_ros.doctor.robot import Robot
from specprune_ros.errors import CheckpointError, ConfigError
from specprune_ros.free_memory import available_bytes
from specprune_ros.nodes.turns import Turns
from specprune_ros.openvla.checkpoint import auto_dtype
from specprune_ros.openvla.files import expanded
from specprune_ros.policy import Policy
from specprune_ros.pruning.config import PruningConfig

OF_FILES = ("files", "variant", "weights", "facts", "statistics", "adapter")  # rows of the doctor


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
            tile=model.tile,
            threads=model.threads,
            precision=model.precision,
            base_checkpoint=model.base_checkpoint or None,
            **model.facts(),
        )
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise CheckpointError(
            f"not enough memory on {device} for {model.checkpoint} in {dtype}; free some, or set model.dtype bfloat16 "
            "or a smaller model.precision"
        ) from error


class SharedModel:
    """The weights in memory, for one arm or for several of one process, and their turns at them. Thread-safe.

    They are freed when the last arm has given its policy back.
    """

    def __init__(self) -> None:
        self.turns = Turns()
        self._lock = threading.Lock()
        self._config: CheckpointConfig | None = None
        self._policies: dict[Hashable, Policy] = {}

    def take(self, owner: Hashable, model: CheckpointConfig, pruning: PruningConfig | None) -> Policy:
        """A policy with a pruning and a history of its own. The first owner's `model` is loaded.

        Raises CheckpointError, or ConfigError when another owner has another `model`.
        """
        with self._lock:
            self._policies.pop(owner, None)
            if not self._policies:
                policy = load_policy(model, pruning)
            else:
                assert self._config is not None
                self._check_same(model, self._config)
                with self.turns.model():
                    policy = next(iter(self._policies.values())).sibling(pruning if pruning is not None else "off")
            self._config, self._policies[owner] = model, policy
            return policy

    def give_back(self, owner: Hashable) -> None:
        """Also without a policy that was taken."""
        with self._lock:
            self._policies.pop(owner, None)

    @staticmethod
    def _check_same(model: CheckpointConfig, loaded: CheckpointConfig) -> None:
        for field in fields(model):
            given, there = getattr(model, field.name), getattr(loaded, field.name)
            if given != there:
                raise ConfigError(
                    f"model.{field.name} is {given!r}, and the other arms of this process share a model with "
                    f"{there!r}; give all of them the same model.*, or start a node of its own"
                )


def checkup(model: CheckpointConfig) -> list[Check]:
    """What the doctor says of the checkpoint's files; whether the robot fits it is asked of the loaded policy."""
    if not model.checkpoint:
        return []
    report = examine(expanded(model.checkpoint), Robot(model), fits=False)
    return [row for row in report.checks if row.name in OF_FILES]


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
