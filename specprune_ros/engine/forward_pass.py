"""One forward pass of one mode: the model and the method, read from top to bottom.

In `budget` selection every shape is fixed by the schedule and nothing is read back to the host, so the same code runs
eagerly on a CPU and captured in a CUDA graph.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from specprune_ros.engine.pruning_run import PruningRun, PruningState
from specprune_ros.engine.stage_clock import StageClock
from specprune_ros.openvla.model import OpenVLA, SequenceLayout
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Inputs:
    """What changes from inference to inference, on the model's device."""

    frames: Tensor  # (V, S, S, 3) uint8, cropped
    similarity: Tensor  # (V, P) float32, cosine similarity with the reference frame
    displacement: Tensor  # (V, P, 2) float32, patches: back to where the scene was in the last inference
    proprio: Tensor  # (P,) float32, normalised
    bos: Tensor  # (1, hidden)
    tail: Tensor  # (tail - 1, hidden): prompt, zeros for the actions, </s>


@dataclass(frozen=True, eq=False)
class Outputs:
    """Results on the model's device; a captured pass overwrites them at its next run."""

    actions: Tensor  # (C, A) float32, normalised
    kept_static: Tensor  # ascending indices over all views' patches
    kept_final: Tensor
    set_sizes: Tensor  # (3, V): global, dynamic, local; zero where nothing was selected


@dataclass(frozen=True, eq=False)
class Pruning:
    """What a pass needs in order to prune (or, in dense mode, to fill the history)."""

    config: PruningConfig
    schedule: Schedule
    state: PruningState


class ForwardPass:
    """A mode's forward pass for one sequence layout. Without `pruning` it is dense and scores nothing."""

    run_type: type[PruningRun] = PruningRun  # a comparison may choose patches in another way

    def __init__(self, model: OpenVLA, layout: SequenceLayout, pruning: Pruning | None):
        self.clock = StageClock(model.device)
        self._model = model
        self._layout = layout
        self._pruning = pruning
        self._normalizations = model.normalizations()
        self._rope = model.decoder.rope(layout.length)

    def __call__(self, inputs: Inputs) -> Outputs:
        clock, model = self.clock, self._model
        clock.start()
        clock.mark("preprocess")
        pixels = [normalize(inputs.frames) for normalize in self._normalizations]
        clock.mark("vision")
        features = model.see(pixels)
        clock.mark("projector")
        patches = model.projector(features)
        clock.mark("decoder")
        x = model.assemble(inputs.bos, patches, inputs.proprio, inputs.tail)
        if self._pruning:
            run = self._decode(x, inputs, self._pruning)
            hidden, kept_static, kept_final, set_sizes = run.x, run.kept_static, run.alive, run.set_sizes
        else:
            hidden = self._decode_dense(x)
            kept_static = kept_final = torch.arange(self._layout.num_patches, device=x.device)
            set_sizes = kept_final.new_zeros(3, model.config.num_views)
        clock.mark("head")
        actions = model.act(hidden)
        clock.stop()
        return Outputs(actions, kept_static, kept_final, set_sizes)

    def _decode(self, x: Tensor, inputs: Inputs, pruning: Pruning) -> PruningRun:
        """All layers, with scoring and pruning between them; ends with the hidden states of the action rows."""
        schedule = pruning.schedule
        if pruning.config.history_motion != "none":
            pruning.state.history.move(inputs.displacement)
        run = self.run_type(pruning.config, schedule, pruning.state, self._layout, inputs.similarity, x, self._rope)
        for number, layer in enumerate(self._model.decoder.layers, start=1):
            last = number == schedule.shape.num_layers
            rows = self._layout.action_rows(len(run.alive)) if last else slice(None)
            run.x, q, k = layer(run.x, run.rope, rows)
            if number in schedule.scored_layers:
                self.clock.mark("selection")
                run.after_layer(number, q, k)
                self.clock.mark("decoder")
        self.clock.mark("selection")
        run.finish()
        return run

    def _decode_dense(self, x: Tensor) -> Tensor:
        *layers, last = self._model.decoder.layers
        for layer in layers:
            x, _, _ = layer(x, self._rope)
        return last(x, self._rope, self._layout.action_rows(self._layout.num_patches))[0]
