"""Runs inferences of every mode: prepares frames, owns the device state, keeps a pass per mode and prompt length."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specprune_ros.engine.cuda_graph import Graphs
from specprune_ros.engine.device_scope import device_scope, on_model_device
from specprune_ros.engine.flops import decoder_flops, scoring_flops
from specprune_ros.engine.forward_pass import ForwardPass, Inputs, Outputs, Pruning
from specprune_ros.engine.frame_pass import FrameInputs, FramePass, Seen
from specprune_ros.engine.pruning_run import PruningState
from specprune_ros.engine.stage_clock import StageClock
from specprune_ros.openvla.model import OpenVLA, SequenceLayout
from specprune_ros.openvla.preprocessing import CenterCrop, resize
from specprune_ros.openvla.prompt import Prompt
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.schedule import MODES, Mode, ModelShape, Schedule, make_schedule

KEPT_PASSES = 12  # modes times prompt lengths; an instruction of another length replaces the oldest


@dataclass(frozen=True, eq=False)
class Sight:
    """Frames as the model sees them, and how they differ from a reference frame. Tensors on the device."""

    frames: Tensor  # (V, S, S, 3) uint8
    similarity: Tensor  # (V, P) float32, until the next call of the engine
    dynamic_share: float  # largest share of dynamic patches in any view; 0 without a reference


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward pass, captured or not, and the clock that measures its stages."""

    run: Callable[[Inputs], Outputs]
    clock: StageClock


@dataclass(frozen=True, eq=False)
class Result:
    """One inference, on the host."""

    actions: NDArray[np.float32]  # (C, A) normalised
    kept_static: tuple[NDArray[np.int64], ...]  # per view, indices in the view
    kept_final: tuple[NDArray[np.int64], ...]
    set_sizes: NDArray[np.int64]  # (3, V): global, dynamic, local
    tokens_per_layer: tuple[int, ...]
    flop_share: float
    stage_seconds: dict[str, float]


class Engine:
    """Everything on the device for one model and one pruning configuration. One caller at a time, in any thread.

    `config` None: dense, nothing is scored. `tile`: sequence lengths of the budget selection are snapped to multiples
    of it. `graphs`: shared by the engines of one model, which never run at the same time.
    """

    def __init__(
        self,
        model: OpenVLA,
        eos_id: int,
        center_crop: bool,
        config: PruningConfig | None,
        tile: int = 1,
        graphs: Graphs | None = None,
    ):
        with device_scope(model.device, model.dtype):
            self.model = model
            self.config = config
            self.graphs = graphs or Graphs.of(model.device)
            self.tile = tile
            size = model.config
            self._shape = ModelShape(size.decoder.num_layers, size.num_views, size.patches_per_view)
            self._eos_id = eos_id
            self._crop = CenterCrop(size.image_size, model.device) if center_crop else None
            self._frame_pass = FramePass(size.towers[0].patch_size, size.patches_per_view, self._crop, config)
            self._look: Callable[[FrameInputs], Seen] | None = None
            self._known = {known: torch.tensor(known, device=model.device) for known in (False, True)}
            self._state = PruningState(config, self._shape, model.device) if config else None
            self._passes: dict[tuple, Pass] = {}
            self._embedded: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    @property
    def modes(self) -> tuple[str, ...]:
        return MODES if self.config else (Mode.OFF,)

    @on_model_device
    def reset(self) -> None:
        """Forget the scores of earlier inferences."""
        if self._state:
            self._state.reset()

    @on_model_device
    def prepare(self, views: list[NDArray[np.uint8]]) -> Tensor:
        """Camera frames, each (H, W, 3) uint8 RGB, to (V, S, S, 3) uint8 on the device: resized, then cropped."""
        resized = self._upload(views)
        return self._crop(resized) if self._crop else resized

    @on_model_device
    def look(
        self,
        views: list[NDArray[np.uint8]],
        reference: Tensor | None,
        displacement: NDArray[np.float32] | None = None,
    ) -> Sight:
        """Prepare camera frames and compare them with the frames of an earlier call, None when there are none.

        `displacement`: (V, P, 2) patches, back to where the scene was in the reference; None when it stood still.
        Reads one number back, before the forward pass starts.
        """
        resized = self._upload(views)
        known = self._known[reference is not None]
        inputs = FrameInputs(resized, resized if reference is None else reference, known, self._on_device(displacement))
        if self._look is None:
            self._look = self.graphs.captured(self._frame_pass, inputs)
        seen = self._look(inputs)
        return Sight(seen.frames.clone(), seen.similarity, float(seen.dynamic_share))

    @on_model_device
    def run(
        self,
        mode: str,
        prompt: Prompt,
        frames: Tensor,
        similarity: Tensor,
        proprio: NDArray[np.float64],
        displacement: NDArray[np.float32] | None = None,
    ) -> Result:
        """One inference. `proprio`: (P,) normalised. `displacement`: (V, P, 2) patches, back to where the scene was in
        the last inference; None when it stood still."""
        bos, tail = self._embed(prompt)
        proprio_tensor = torch.from_numpy(proprio).to(self.model.device, torch.float32)
        inputs = Inputs(frames, similarity, self._on_device(displacement), proprio_tensor, bos, tail)
        layout, plan = self._plan(mode, prompt)
        forward = self._pass(mode, prompt, layout, plan, inputs)
        outputs = forward.run(inputs)
        actions = outputs.actions.cpu().numpy().copy()  # waits for the device

        kept_static = outputs.kept_static.cpu().numpy()
        tokens = self._tokens_per_layer(plan, layout, len(kept_static))
        return Result(
            actions=actions,
            kept_static=self._per_view(kept_static),
            kept_final=self._per_view(outputs.kept_final.cpu().numpy()),
            set_sizes=outputs.set_sizes.cpu().numpy().copy(),
            tokens_per_layer=tokens,
            flop_share=self._flop_share(plan, layout, tokens),
            stage_seconds=forward.clock.seconds(),
        )

    def warm_up(self, prompt: Prompt, runs: int = 3) -> dict[str, float]:
        """Capture or warm every mode for a prompt; median seconds of an inference per mode. Resets the history."""
        size = self.model.config
        views = [np.zeros((size.image_size, size.image_size, 3), np.uint8)] * size.num_views
        reference = self.prepare(views)
        seconds = {}
        for mode in self.modes:
            times = []
            for _ in range(runs):
                begin = time.perf_counter()
                sight = self.look(views, reference)
                self.run(mode, prompt, sight.frames, sight.similarity, np.zeros(size.proprio_dim))
                times.append(time.perf_counter() - begin)
            seconds[mode] = statistics.median(times[1:])
        self.reset()
        return seconds

    def is_warm(self, prompt: Prompt) -> bool:
        """Whether every mode has run, or been captured, for a prompt of this shape."""
        return all((mode, prompt.shape) in self._passes for mode in self.modes)

    def _upload(self, views: list[NDArray[np.uint8]]) -> Tensor:
        size = self.model.config.image_size
        return torch.from_numpy(np.stack([resize(view, size) for view in views])).to(self.model.device)

    def _on_device(self, displacement: NDArray[np.float32] | None) -> Tensor:
        if displacement is None:
            displacement = np.zeros((self._shape.num_views, self._shape.patches_per_view, 2), np.float32)
        return torch.from_numpy(displacement).to(self.model.device)

    def _embed(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """Embeddings of the prompt; kept for the last prompt, because it seldom changes."""
        if prompt.token_ids not in self._embedded:
            token_ids = torch.tensor(prompt.token_ids, device=self.model.device)
            self._embedded = {prompt.token_ids: self.model.embed_text(token_ids, self._eos_id)}
        return self._embedded[prompt.token_ids]

    def _plan(self, mode: str, prompt: Prompt) -> tuple[SequenceLayout, Schedule | None]:
        layout = SequenceLayout.of(self.model.config, prompt)
        if self.config is None:
            return layout, None
        return layout, make_schedule(self.config, self._shape, 1 + layout.tail_length, mode, self.tile)

    def _pass(self, mode: str, prompt: Prompt, layout: SequenceLayout, plan: Schedule | None, example: Inputs) -> Pass:
        key = (mode, prompt.shape)
        if key not in self._passes:
            while len(self._passes) >= KEPT_PASSES:
                del self._passes[next(iter(self._passes))]  # the oldest
            pruning = Pruning(self.config, plan, self._state) if self.config and plan and self._state else None
            forward = ForwardPass(self.model, layout, pruning)
            fixed_shapes = self.config is None or self.config.selection == "budget" or mode == Mode.DENSE
            run = self._captured(forward, example) if fixed_shapes else forward
            self._passes[key] = Pass(run, forward.clock)
        return self._passes[key]

    def _captured(self, forward: ForwardPass, example: Inputs) -> Callable[[Inputs], Outputs]:
        """Captured without leaving the warm-up runs in the history."""
        before = self._state.copy() if self._state else None
        run = self.graphs.captured(forward, example)
        if self._state and before:
            self._state.restore(before)
        return run

    def _tokens_per_layer(self, plan: Schedule | None, layout: SequenceLayout, static: int) -> tuple[int, ...]:
        if plan is None:
            return (layout.length,) * self._shape.num_layers
        assert self.config is not None
        return plan.tokens_per_layer(static if self.config.selection == "union" else None)

    def _flop_share(self, plan: Schedule | None, layout: SequenceLayout, tokens: tuple[int, ...]) -> float:
        """Decoder operations, scoring included, over those of a dense pass."""
        decoder, num_actions = self.model.config.decoder, layout.num_actions
        spent = decoder_flops(decoder, tokens, num_actions)
        if plan:
            text_rows = layout.instruction.stop - layout.instruction.start
            spent += scoring_flops(decoder, [tokens[layer - 1] for layer in plan.scored_layers], text_rows)
        return spent / decoder_flops(decoder, (layout.length,) * len(tokens), num_actions)

    def _per_view(self, kept: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        per_view = self._shape.patches_per_view
        return tuple(kept[kept // per_view == view] - view * per_view for view in range(self._shape.num_views))
