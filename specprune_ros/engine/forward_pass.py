# SPDX-License-Identifier: Apache-2.0
"""One forward pass of one mode: the model and the method, read from top to bottom.

In `budget` selection every shape is fixed by the schedule and nothing is read back to the host, so the same code runs
eagerly on a CPU and captured in a CUDA graph. A diffusion head's whole sampler is one forward pass.
"""

from dataclasses import dataclass

from torch import Tensor

from specprune_ros.engine.decoding import DenseDecoding, Embedded, PassLengths, PrunedDecoding, Pruning
from specprune_ros.engine.pruning_run import PruningRun
from specprune_ros.engine.stage_clock import StageClock
from specprune_ros.openvla.model import OpenVLA, SequenceLayout


@dataclass(frozen=True, eq=False)
class Inputs:
    """What changes from inference to inference, on the model's device."""

    frames: Tensor  # (V, S, S, 3) uint8, cropped
    similarity: Tensor  # (V, P) float32, cosine similarity with the reference frame
    displacement: Tensor  # (V, P, 2) float32, patches: back to where the scene was in the last inference
    proprio: Tensor  # (P,) float32, normalised; (0,) without proprio
    text: Tensor  # (n + 1, hidden): prompt and </s>
    film: Tensor  # what `OpenVLA.film` makes of the text; (0,) without FiLM
    noise: Tensor  # (C, A) float32, where a diffusion head starts


@dataclass(frozen=True, eq=False)
class Outputs:
    """Results on the model's device; a captured pass overwrites them at its next run."""

    actions: Tensor  # (C, A) float32, normalised
    kept_static: Tensor  # ascending indices over all views' patches
    kept_final: Tensor
    set_sizes: Tensor  # (3, V): global, dynamic, local; zero where nothing was selected


class ForwardPass:
    """A mode's forward pass for one sequence layout. Without `pruning` it is dense and scores nothing.

    `lengths`: sequence lengths in the last call's passes of the decoder: one, or one for every denoising step.
    """

    run_type: type[PruningRun] = PruningRun  # a comparison may choose patches in another way

    def __init__(self, model: OpenVLA, layout: SequenceLayout, pruning: Pruning | None):
        self.clock = StageClock(model.device)
        self.lengths: tuple[PassLengths, ...] = ()
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
        features = model.see(pixels, inputs.film)
        clock.mark("projector")
        embedded = Embedded(inputs.text, model.projector(features), model.embed_proprio(inputs.proprio))
        clock.mark("head")
        decoding = self._decoding(embedded, inputs)
        actions = model.action_head.predict(decoding, inputs.noise)
        selection = decoding.finish()
        clock.stop()
        self.lengths = tuple(decoding.lengths)
        return Outputs(actions, selection.kept_static, selection.kept_final, selection.set_sizes)

    def _decoding(self, embedded: Embedded, inputs: Inputs) -> DenseDecoding:
        parts = self._model, self._layout, self._rope, self.clock, embedded
        if self._pruning is None:
            return DenseDecoding(*parts)
        return PrunedDecoding(*parts, self._pruning, inputs.similarity, inputs.displacement, self.run_type)
