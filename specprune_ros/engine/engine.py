# SPDX-License-Identifier: Apache-2.0
"""Runs inferences of every mode: prepares frames, owns the device state, keeps a pass per mode and prompt length."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specprune_ros.engine.bounded import make_room
from specprune_ros.engine.cuda_graph import Graphs
from specprune_ros.engine.decoding import PassLengths, Pruning
from specprune_ros.engine.device_scope import device_scope, on_model_device
from specprune_ros.engine.downloads import Downloads
from specprune_ros.engine.flops import decoder_flops, scoring_flops
from specprune_ros.engine.forward_pass import ForwardPass, Inputs, Outputs
from specprune_ros.engine.frame_pass import FrameInputs, FramePass, FramePreparation, Seen, Sizes
from specprune_ros.engine.pruning_run import PruningState
from specprune_ros.engine.uploads import Uploads
from specprune_ros.openvla.model import OpenVLA, SequenceLayout
from specprune_ros.openvla.preprocessing import CenterCrop
from specprune_ros.openvla.prompt import Prompt
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.schedule import MODES, Mode, ModelShape, Schedule, make_schedule

KEPT_PASSES = 12  # modes times prompt lengths; an instruction of another length replaces the oldest
KEPT_FRAME_SIZES = 4  # combinations of the cameras' sizes


@dataclass(frozen=True, eq=False)
class Sight:
    """Frames as the model sees them, and how they differ from a reference frame. Tensors on the device."""

    frames: Tensor  # (V, S, S, 3) uint8
    similarity: Tensor  # (V, P) float32, until the next call of the engine
    dynamic_share: float  # largest share of dynamic patches in any view; 0 without a reference


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward pass, and the same captured, where it can be."""

    run: Callable[[Inputs], Outputs]
    forward: ForwardPass


@dataclass(frozen=True, eq=False)
class Result:
    """One inference, on the host."""

    actions: NDArray[np.float32]  # (C, A) normalised
    kept_static: tuple[NDArray[np.int64], ...]  # per view, indices in the view
    kept_final: tuple[NDArray[np.int64], ...]
    set_sizes: NDArray[np.int64]  # (3, V): global, dynamic, local
    tokens_per_layer: tuple[int, ...]  # in the decoder's first pass; only a diffusion head asks for more
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
        with device_scope(model.device):
            self.model = model
            self.config = config
            self.graphs = graphs or Graphs.of(model.device)
            self.tile = tile
            size = model.config
            self._shape = ModelShape(size.decoder.num_layers, size.num_views, size.patches_per_view)
            self._eos_id = eos_id
            self._crop = CenterCrop(size.image_size, model.device) if center_crop else None
            self._uploads = Uploads(model.device)
            self._downloads = Downloads(model.device)
            self._preparations: dict[Sizes, FramePreparation] = {}
            self._looks: dict[Sizes, Callable[[FrameInputs], Seen]] = {}
            shape = size.num_views, size.image_size, size.image_size, 3
            self._no_reference = torch.zeros(shape, dtype=torch.uint8, device=model.device)
            self._standing_still = torch.zeros(size.num_views, size.patches_per_view, 2, device=model.device)
            self._known = {known: torch.tensor(known, device=model.device) for known in (False, True)}
            self._state = PruningState(config, self._shape, model.device) if config else None
            self._passes: dict[tuple[Any, ...], Pass] = {}
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
        return self._preparation(_sizes(views))(self._uploads("views", views))

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
        known = self._known[reference is not None]
        reference = self._no_reference if reference is None else reference
        inputs = FrameInputs(self._uploads("views", views), reference, known, self._on_device(displacement))
        seen = self._look(_sizes(views), inputs)(inputs)
        share = self._downloads(dynamic_share=seen.dynamic_share)["dynamic_share"]
        return Sight(seen.frames.clone(), seen.similarity, float(share))

    @on_model_device
    def run(
        self,
        mode: str,
        prompt: Prompt,
        frames: Tensor,
        similarity: Tensor,
        proprio: NDArray[np.float64],
        displacement: NDArray[np.float32] | None = None,
        noise: NDArray[np.float32] | None = None,
    ) -> Result:
        """One inference. `proprio`: (P,) normalised. `displacement`: (V, P, 2) patches, back to where the scene was in
        the last inference; None when it stood still. `noise`: (C, A), where a diffusion head starts; else zeros."""
        size = self.model.config
        if noise is None:
            noise = np.zeros((size.chunk_length, size.action_dim), np.float32)
        text, film = self._embed(prompt)
        moved = self._on_device(displacement)
        proprio_tensor = self._uploads("proprio", [proprio.astype(np.float32)])
        start = self._uploads("noise", [noise]).view(noise.shape)
        inputs = Inputs(frames, similarity, moved, proprio_tensor, text, film, start)
        layout, plan = self._plan(mode, prompt)
        found = self._pass(mode, prompt, layout, plan, inputs)
        outputs = found.run(inputs)
        host = self._downloads(  # waits for the device
            actions=outputs.actions,
            kept_static=outputs.kept_static,
            kept_final=outputs.kept_final,
            set_sizes=outputs.set_sizes,
        )

        return Result(
            actions=host["actions"],
            kept_static=self._per_view(host["kept_static"]),
            kept_final=self._per_view(host["kept_final"]),
            set_sizes=host["set_sizes"],
            tokens_per_layer=found.forward.lengths[0].per_layer,
            flop_share=self._flop_share(layout, found.forward.lengths),
            stage_seconds=found.forward.clock.seconds(),
        )

    def warm_up(self, prompt: Prompt, runs: int = 3) -> dict[str, float]:
        """Capture or warm every mode for a prompt; median seconds of an inference per mode. Resets the history."""
        seconds = {}
        try:
            for mode in self.modes:
                times = []
                for _ in range(runs):
                    begin = time.perf_counter()
                    self.infer_blank(mode, prompt)
                    times.append(time.perf_counter() - begin)
                seconds[mode] = statistics.median(times[1:])
        finally:
            self.reset()
        return seconds

    def infer_blank(self, mode: str, prompt: Prompt) -> None:
        """A whole inference on black frames. Its scores stay in the history: `reset` afterwards."""
        size = self.model.config
        views = [np.zeros((size.image_size, size.image_size, 3), np.uint8)] * size.num_views
        sight = self.look(views, self._no_reference)
        self.run(mode, prompt, sight.frames, sight.similarity, np.zeros(size.proprio_dim))

    def is_warm(self, prompt: Prompt) -> bool:
        """Whether every mode has run, or been captured, for a prompt of this shape."""
        return all((mode, prompt.shape) in self._passes for mode in self.modes)

    def _preparation(self, sizes: Sizes) -> FramePreparation:
        if sizes not in self._preparations:
            make_room(self._preparations, KEPT_FRAME_SIZES)
            device, image_size = self.model.device, self.model.config.image_size
            self._preparations[sizes] = FramePreparation(sizes, image_size, self._crop, device)
        return self._preparations[sizes]

    def _look(self, sizes: Sizes, example: FrameInputs) -> Callable[[FrameInputs], Seen]:
        if sizes not in self._looks:
            make_room(self._looks, KEPT_FRAME_SIZES)
            size = self.model.config
            patches = size.towers[0].patch_size, size.patches_per_view
            frame_pass = FramePass(*patches, self._preparation(sizes), self.config)
            self._looks[sizes] = self.graphs.captured(frame_pass, example)
        return self._looks[sizes]

    def _on_device(self, displacement: NDArray[np.float32] | None) -> Tensor:
        if displacement is None:
            return self._standing_still
        return self._uploads("displacement", [displacement]).view(displacement.shape)

    def _embed(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """Embedded text and FiLM's modulations of it; kept for the last prompt, because it seldom changes."""
        if prompt.token_ids not in self._embedded:
            token_ids = torch.tensor(prompt.token_ids, device=self.model.device)
            text = self.model.embed_text(token_ids, self._eos_id)
            self._embedded = {prompt.token_ids: (text, self.model.film(text))}
        return self._embedded[prompt.token_ids]

    def _plan(self, mode: str, prompt: Prompt) -> tuple[SequenceLayout, Schedule | None]:
        layout = SequenceLayout.of(self.model.config, prompt)
        if self.config is None:
            return layout, None
        return layout, make_schedule(self.config, self._shape, layout.fixed_tokens, mode, self.tile)

    def _pass(self, mode: str, prompt: Prompt, layout: SequenceLayout, plan: Schedule | None, example: Inputs) -> Pass:
        key = (mode, prompt.shape)
        if key not in self._passes:
            make_room(self._passes, KEPT_PASSES)
            pruning = Pruning(self.config, plan, self._state) if self.config and plan and self._state else None
            forward = ForwardPass(self.model, layout, pruning)
            fixed_shapes = self.config is None or self.config.selection == "budget" or mode == Mode.DENSE
            run = self._captured(forward, example) if fixed_shapes else forward
            self._passes[key] = Pass(run, forward)
        return self._passes[key]

    def _captured(self, forward: ForwardPass, example: Inputs) -> Callable[[Inputs], Outputs]:
        """Captured without leaving the warm-up runs in the history."""
        before = self._state.snapshot() if self._state else None
        try:
            return self.graphs.captured(forward, example)
        finally:
            if self._state and before:
                self._state.restore(before)

    def _flop_share(self, layout: SequenceLayout, passes: tuple[PassLengths, ...]) -> float:
        """Decoder operations of all passes, scoring included, over those of dense passes."""
        decoder, num_actions = self.model.config.decoder, layout.num_actions
        words = layout.instruction.stop - layout.instruction.start
        spent = sum(
            decoder_flops(decoder, lengths.per_layer, num_actions) + scoring_flops(decoder, lengths.scored, words)
            for lengths in passes
        )
        dense = decoder_flops(decoder, (layout.length,) * decoder.num_layers, num_actions)
        return spent / (len(passes) * dense)

    def _per_view(self, kept: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        per_view = self._shape.patches_per_view
        return tuple(kept[kept // per_view == view] - view * per_view for view in range(self._shape.num_views))


def _sizes(views: list[NDArray[np.uint8]]) -> Sizes:
    return tuple((view.shape[0], view.shape[1]) for view in views)
