# SPDX-License-Identifier: Apache-2.0
"""Observation in, action chunk out: one object that owns model, pruning state and normalisation."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from specprune_ros.camera import Camera
from specprune_ros.checked_values import as_array, as_seconds
from specprune_ros.engine.calibration import Calibration, calibrate
from specprune_ros.engine.cuda_graph import Graphs
from specprune_ros.engine.engine import Engine, Result
from specprune_ros.engine.precision import Choice, check_precision, choose_precision, pack, store_linears
from specprune_ros.engine.precision_names import NATIVE
from specprune_ros.engine.threads import Threads
from specprune_ros.errors import CheckpointError, ObservationError
from specprune_ros.openvla import checkpoint as release
from specprune_ros.openvla.config import DIFFUSION, DISCRETE
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.preprocessing import CROP_AREA
from specprune_ros.openvla.prompt import Prompt
from specprune_ros.openvla.quantized import is_quantized
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.controller import ActionAwareController, Decision, Reason, Speed
from specprune_ros.pruning.frames import FrameHistory, StampedFrames, reference_delay
from specprune_ros.pruning.scene_motion import MotionCue, SceneMotion
from specprune_ros.pruning.schedule import MODES, Mode, ModelShape, make_schedule

NATIVE_CHOICE = Choice(NATIVE)
WARM_UP_INSTRUCTION = "pick up the object and place it on the plate"


@dataclass(frozen=True, eq=False)
class Observation:
    """What the robot sees and feels at one stamp.

    `views`: name -> (H, W, 3) uint8 RGB, oriented as in training, in the order of the checkpoint's views.
    `proprio`: (P,) in the checkpoint's units; a checkpoint without proprio reads nothing of it, None will do. `stamp`:
    seconds. `twist`: (6,) of the end effector in the base frame, m/s and rad/s (REP 103), None when unknown. `cameras`:
    of the views by name, as far as known; `history_motion: tf` asks for them.
    """

    views: Mapping[str, NDArray[np.uint8]]
    proprio: NDArray[np.float64] | None
    instruction: str
    stamp: float = 0.0
    twist: NDArray[np.float64] | None = None
    cameras: Mapping[str, Camera] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PruningReport:
    """What the pruning did in one inference. Patch indices are row-major in a view's patch grid."""

    mode: Mode
    reason: Reason
    preset: str
    selection: str
    v_t: float  # m/s, nan when unknown; likewise below
    v_r: float  # rad/s
    v_z: float  # m/s
    views: tuple[str, ...]
    patches: tuple[int, ...]
    global_set: tuple[int, ...]
    dynamic_set: tuple[int, ...]
    local_set: tuple[int, ...]
    kept_static: tuple[NDArray[np.int64], ...]
    kept_final: tuple[NDArray[np.int64], ...]
    tokens_per_layer: tuple[int, ...]
    flop_share: float


@dataclass(frozen=True, eq=False)
class ActionChunk:
    """Actions for the steps that follow an observation, (C, A) float64 in the checkpoint's units."""

    actions: NDArray[np.float64]
    stamp: float  # of the observation, seconds
    instruction: str
    unnorm_key: str
    pruning: PruningReport
    stage_seconds: dict[str, float]
    seconds: float  # whole inference


class Policy:
    """An OpenVLA-OFT checkpoint with SpecPrune-VLA's pruning. One caller at a time."""

    def __init__(
        self,
        loaded: release.Checkpoint,
        pruning: str | PruningConfig = "off",
        tile: int = 0,
        threads: int = 0,
        precision: Choice = NATIVE_CHOICE,
    ):
        self._loaded = loaded
        self._model = loaded.model
        self._threads = Threads(threads)
        self._precision = precision
        self._tokenizer = loaded.tokenizer
        self._normalizer = loaded.normalizer
        self._center_crop = loaded.family.center_crop
        self.calibration = Calibration(tile) if tile else calibrate(self._model)
        self._graphs = Graphs.of(self._model.device)
        self._prompt: tuple[str, Prompt] | None = None
        self._last_stamp = -math.inf
        self.unnorm_key = loaded.unnorm_key
        self.action_space = loaded.family.action_space
        self.action_names = loaded.family.action_names
        self.action_units = loaded.family.action_units
        self.normalization = loaded.family.proprio_normalization  # which statistics are the low and high of the ranges
        self.set_pruning(pruning)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        unnorm_key: str | None = None,
        pruning: str | PruningConfig = "off",
        *,
        chunk_length: int | None = None,
        num_views: int | None = None,
        center_crop: bool | None = None,
        proprio_normalization: str | None = None,
        action_space: str | None = None,
        action_names: Sequence[str] | None = None,
        action_units: Sequence[str] | None = None,
        tile: int = 0,
        threads: int = 0,
        precision: str = NATIVE,
        keep_precision: bool = False,
        base_checkpoint: str | Path | None = None,
        num_diffusion_steps: int | None = None,
        num_diffusion_steps_train: int | None = None,
    ) -> "Policy":
        """Load a checkpoint folder in the release format.

        `unnorm_key` may be left out when the checkpoint has one. `pruning`: "off", a preset's name, or a
        PruningConfig. `chunk_length` to `action_units` override what config.json says and what is known of the
        data set (`family.py` says which values they have).
        `tile`: 0 measures the device's best tile. `threads`: of inferences on a CPU, 0 measures at `warm_up` how many
        are fastest. `precision`: number format of the matrix products, one of `engine.precision.PRECISIONS`; weights go
        straight into it. On a CPU without instructions for 8-bit products int8 becomes native where that is faster,
        with a warning, unless `keep_precision`. `base_checkpoint`: folder of the model that an un-merged LoRA adapter
        was trained from. `num_diffusion_steps`, `num_diffusion_steps_train`: denoising steps of a diffusion head in
        inference and in training; 50 by default, as in the reference.
        Raises CheckpointError or ConfigError, one line each.
        """
        overrides = {
            "chunk_length": chunk_length,
            "num_views": num_views,
            "center_crop": center_crop,
            "proprio_normalization": proprio_normalization,
            "action_space": action_space,
            "action_names": action_names,
            "action_units": action_units,
            "num_diffusion_steps": num_diffusion_steps,
            "num_diffusion_steps_train": num_diffusion_steps_train,
        }

        choice = Choice(precision)

        def prepare(model: OpenVLA) -> None:
            nonlocal choice
            if keep_precision or is_quantized(path):
                check_precision(precision, torch.device(device))
            else:
                choice = choose_precision(precision, model.config, torch.device(device))
            store_linears(model, choice.precision, torch.device(device), all_of_them=is_quantized(path))

        loaded = release.load(path, device, dtype, unnorm_key, overrides, base_checkpoint, prepare, precision)
        problem = pack(loaded.model)
        return cls(loaded, pruning, tile, threads, replace(choice, problem=choice.problem or problem))

    def sibling(self, pruning: str | PruningConfig) -> "Policy":
        """Another policy on the same weights, with its own pruning and history. One caller at a time for them all.

        Raises ConfigError when the configuration does not fit the model.
        """
        other = Policy(self._loaded, pruning, self.tile, precision=self._precision)
        other._threads = self._threads  # measured once for them all, also when that is still to come
        return other

    @property
    def chunk_length(self) -> int:
        return self._model.config.chunk_length

    @property
    def action_dim(self) -> int:
        return self._model.config.action_dim

    @property
    def proprio_dim(self) -> int:
        return self._model.config.proprio_dim

    @property
    def num_views(self) -> int:
        return self._model.config.num_views

    @property
    def image_size(self) -> int:
        return self._model.config.image_size

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of a view's patches."""
        side = self.image_size // self._model.config.towers[0].patch_size
        return side, side

    @property
    def center_crop(self) -> bool:
        """Whether the towers see the centre of a view only (`preprocessing.CROP_AREA` of it)."""
        return self._center_crop

    @property
    def proprio_range(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(P,) twice: each number's usual low and high in the training data, in the checkpoint's units."""
        return self._normalizer.proprio.low, self._normalizer.proprio.high

    def moved_constants(self, proprio: NDArray[np.float64]) -> list[int]:
        """Numbers of a (P,) proprio that never changed in the training data and are another now; the model gets 0."""
        return self._normalizer.proprio.moved(proprio)

    @property
    def action_range(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(A,) twice: each number's usual low and high in the training data, in the checkpoint's units."""
        return self._normalizer.action.low, self._normalizer.action.high

    @property
    def pruning(self) -> PruningConfig | None:
        """The configuration in force; None when pruning is off."""
        return self._engine.config

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def tile(self) -> int:
        return self.calibration.tile

    @property
    def threads(self) -> int:
        """Threads of an inference on a CPU; 0 before they are measured, and on a GPU unless they were given."""
        return self._threads.count

    @property
    def precision(self) -> str:
        """Number format of the matrix products."""
        return self._precision.precision

    @property
    def precision_problem(self) -> str:
        """Why inferences are slower than the device and the precision promise; "" when all is well."""
        return self._precision.problem

    @property
    def graph_problem(self) -> str:
        """Why inferences do not run from CUDA graphs although they could, and so are slower; "" when all is well."""
        return self._graphs.problem

    def set_pruning(self, pruning: str | PruningConfig) -> None:
        """Change the pruning between two inferences, all or nothing. Forgets the history.

        Raises ConfigError and changes nothing when the configuration does not fit the model.
        """
        if isinstance(pruning, str):
            config = None if pruning == "off" else PruningConfig.from_preset(pruning)
        else:
            config = pruning
        if config is not None:
            self.check_pruning(config)
        engine = Engine(self._model, self._tokenizer.eos_id, self._center_crop, config, self.tile, self._graphs)
        if self._prompt and engine.graphs.capture:
            engine.warm_up(self._prompt[1])  # captures the graphs now, not in the next inference
        self._engine = engine
        self._controller = ActionAwareController(config) if config else None
        self._frames = FrameHistory(config) if config else None
        area = CROP_AREA if self._center_crop else 1.0
        self._scene_motion = SceneMotion(config, self.patch_grid[0], area) if config else None
        self.reset()

    def check_pruning(self, config: PruningConfig) -> None:
        """Raises ConfigError when the configuration does not fit the model. Safe to call during an inference."""
        size = self._model.config
        shape = ModelShape(size.decoder.num_layers, size.num_views, size.patches_per_view)
        for mode in MODES:
            make_schedule(config, shape, 0, mode)

    def warm_up(self, instruction: str = "") -> dict[str, float]:
        """Run (on CUDA: capture) every mode a few times; median seconds of an inference per mode. Forgets the history.

        Graphs depend on the prompt's length: give the instruction that will be used. Without one it is the last
        instruction, or an ordinary one.
        """
        if instruction or self._prompt is None:
            prompt = self._tokenizer(instruction or WARM_UP_INSTRUCTION)
        else:
            prompt = self._prompt[1]
        if self._model.device.type == "cpu" and not self._threads.count:
            self._threads.measure(lambda: self._engine.infer_blank(self._engine.modes[-1], prompt))
        self._threads.apply()
        seconds = self._engine.warm_up(prompt)
        self.reset()
        return seconds

    def reset(self) -> None:
        """Forget frames and scores: new task, new scene, or the clock was set back."""
        self._engine.reset()
        if self._frames is not None:
            self._frames.reset()
        if self._controller:
            self._controller.reset()
        self._last_stamp = -math.inf
        self._last_cue = MotionCue()

    def observe(
        self, views: Mapping[str, NDArray[np.uint8]], stamp: float, cameras: Mapping[str, Camera] | None = None
    ) -> None:
        """Remember frames between two inferences, so that the dynamic set finds the frame it asks for."""
        stamp = as_seconds(stamp)
        if self._frames is not None and self._frames.wants(stamp):
            checked = self._checked(views)
            cue = self._cue(checked, tuple(views), cameras or {})
            self._frames.add(self._engine.prepare(checked), stamp, cue)

    def act(self, observation: Observation, noise: NDArray[np.float32] | None = None) -> ActionChunk:
        """Predict the next chunk. A new instruction, or a stamp before the last one, resets the history.

        `noise`: (C, A) standard normal numbers, where a diffusion head starts; by default drawn from a generator that
        the observation's stamp seeds, so that an episode repeats exactly, and so does it with another pruning.
        Raises ObservationError, one line, when an input does not fit; the history stays. Anything else resets it.
        """
        begin = time.perf_counter()
        self._threads.apply()  # whichever thread this is
        if not isinstance(observation, Observation):
            raise ObservationError(f"the observation is a {type(observation).__name__}; give a policy.Observation")
        stamp = as_seconds(observation.stamp)
        views = self._checked(observation.views)
        proprio = self._normalizer.normalize_proprio(observation.proprio)
        motion = Speed.of(observation.twist)
        start = self._checked_noise(noise)
        with self._forgetting_what_failed():
            prompt = self._tokenized(observation.instruction)
            if stamp < self._last_stamp:
                self.reset()

            cue = self._cue(views, tuple(observation.views), observation.cameras)
            since_last = self._displacement(cue, self._last_cue)
            reference = self._reference(stamp, motion)
            if reference is None:
                sight = self._engine.look(views, None)
            else:
                sight = self._engine.look(views, reference.frames, self._displacement(cue, reference.cue))
            looked = time.perf_counter()
            if self._controller:
                decision = self._controller.decide(motion, sight.dynamic_share)
            else:
                decision = Decision(Mode.OFF, Reason.PRUNING_OFF)

            result = self._engine.run(
                decision.mode, prompt, sight.frames, sight.similarity, proprio, since_last, self._noise(start, stamp)
            )
        if self._frames is not None:
            self._frames.add(sight.frames, stamp, cue)
        self._last_stamp, self._last_cue = stamp, cue
        actions = self._normalizer.unnormalize_actions(result.actions)
        if not np.isfinite(actions).all():
            self.reset()  # scores of this inference are no better
            raise CheckpointError(self._no_numbers())
        stages = result.stage_seconds
        stages["preprocess"] += looked - begin
        return ActionChunk(
            actions=actions,
            stamp=stamp,
            instruction=observation.instruction,
            unnorm_key=self.unnorm_key,
            pruning=self._report(decision, motion, tuple(observation.views), result),
            stage_seconds=stages,
            seconds=time.perf_counter() - begin,
        )

    def _no_numbers(self) -> str:
        """Why there are no actions, although the observation is good."""
        if self._model.config.head == DISCRETE:
            return (
                "the model says tokens that are no actions: it was trained with another head, whose file "
                "action_head--STEP_checkpoint.pt is missing in the checkpoint folder, or for another tokenizer, or its "
                f"numbers overflow in {str(self._model.dtype).removeprefix('torch.')}"
            )
        return (
            "the model predicts NaN or Inf from a good observation: its training diverged, or its numbers overflow in "
            f"{str(self._model.dtype).removeprefix('torch.')}; use an earlier step, or another dtype"
        )

    def _checked(self, views: Mapping[str, NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        if not isinstance(views, Mapping):
            raise ObservationError(f"views is a {type(views).__name__}; give a dict of name -> RGB image")
        if len(views) != self.num_views:
            raise ObservationError(
                f"the observation has {len(views)} views ({', '.join(map(str, views))}); the checkpoint expects "
                f"{self.num_views}: give each of them; a checkpoint trained with another number loads with num_views "
                "(parameter model.num_views)"
            )
        for name, image in views.items():
            array = as_array(image, f"view '{name}'")
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
                raise ObservationError(
                    f"view '{name}' is {array.dtype} of shape {array.shape}; expected RGB uint8 of shape (H, W, 3)"
                )
        return [np.ascontiguousarray(image) for image in views.values()]

    def _checked_noise(self, noise: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        if noise is None:
            return None
        array, size = np.asarray(noise), self._model.config
        if size.head != DIFFUSION:
            raise ObservationError(f"noise was given, but the checkpoint's {size.head} head takes none")
        shape = size.chunk_length, size.action_dim
        if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ObservationError(
                f"noise is {array.dtype} of shape {array.shape}; expected finite floats of shape {shape}"
            )
        return array.astype(np.float32)

    def _noise(self, given: NDArray[np.float32] | None, stamp: float) -> NDArray[np.float32] | None:
        """(C, A) for a diffusion head; the others read none."""
        size = self._model.config
        if given is not None or size.head != DIFFUSION:
            return given
        random = np.random.default_rng(int(np.float64(stamp).view(np.uint64)))
        return random.standard_normal((size.chunk_length, size.action_dim), np.float32)

    @contextmanager
    def _forgetting_what_failed(self) -> Iterator[None]:
        """Half an inference leaves a history that means nothing."""
        try:
            yield
        except ObservationError:
            raise
        except Exception:
            self.reset()
            raise

    def _tokenized(self, instruction: str) -> Prompt:
        if self._prompt is None or not isinstance(instruction, str) or self._prompt[0] != instruction:
            prompt = self._tokenizer(instruction)
            if self._engine.graphs.capture and not self._engine.is_warm(prompt):
                self._engine.warm_up(prompt)  # every mode now, while the arm waits, not at a change of mode in motion
            if self._prompt is not None:
                self.reset()
            self._prompt = instruction, prompt  # last: should the warm-up fail, the next inference begins with it
        return self._prompt[1]

    def _reference(self, stamp: float, motion: Speed | None) -> StampedFrames | None:
        config = self._engine.config
        if config is None or self._frames is None:
            return None
        return self._frames.nearest(stamp - reference_delay(config, motion.v_t if motion else 0.0))

    def _cue(self, views: list[NDArray[np.uint8]], names: tuple[str, ...], cameras: Mapping[str, Camera]) -> MotionCue:
        if self._scene_motion is None:
            return MotionCue()
        return self._scene_motion.cue(views, [cameras.get(name) for name in names])

    def _displacement(self, now: MotionCue, before: MotionCue) -> NDArray[np.float32] | None:
        return self._scene_motion.displacement(now, before) if self._scene_motion else None

    def _report(
        self, decision: Decision, motion: Speed | None, names: tuple[str, ...], result: Result
    ) -> PruningReport:
        config = self._engine.config
        nan = math.nan
        sizes = result.set_sizes
        return PruningReport(
            mode=decision.mode,
            reason=decision.reason,
            preset=config.preset if config else "",
            selection=config.selection if config else "",
            v_t=motion.v_t if motion else nan,
            v_r=motion.v_r if motion else nan,
            v_z=motion.v_z if motion else nan,
            views=names,
            patches=(self._model.config.patches_per_view,) * len(names),
            global_set=tuple(int(n) for n in sizes[0]),
            dynamic_set=tuple(int(n) for n in sizes[1]),
            local_set=tuple(int(n) for n in sizes[2]),
            kept_static=result.kept_static,
            kept_final=result.kept_final,
            tokens_per_layer=result.tokens_per_layer,
            flop_share=result.flop_share,
        )
