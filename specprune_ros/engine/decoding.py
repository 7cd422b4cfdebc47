# SPDX-License-Identifier: Apache-2.0
"""The decoder as a head sees it (`openvla.decode.Decode`): all passes of one inference, dense or pruned.

A diffusion head asks for many passes, which differ in a few tokens alone. The first one selects; the later ones keep
its patches, the static set from the first layer on, and cost far less. With `reselect` every pass selects anew.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from specprune_ros.engine.pruning_run import PruningRun, PruningState, keep_patches
from specprune_ros.engine.stage_clock import StageClock
from specprune_ros.openvla.decoder import Rope
from specprune_ros.openvla.model import OpenVLA, SequenceLayout
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Pruning:
    """What a pass needs in order to prune (or, in dense mode, to fill the history)."""

    config: PruningConfig
    schedule: Schedule
    state: PruningState


@dataclass(frozen=True, eq=False)
class Embedded:
    """What is the same in all passes of an inference."""

    text: Tensor  # (n + 1, hidden): prompt and </s>
    patches: Tensor  # (V * P, hidden)
    proprio: Tensor  # (1, hidden), or (0, hidden) without proprio


@dataclass(frozen=True)
class PassLengths:
    """Sequence lengths in one pass of the decoder."""

    per_layer: tuple[int, ...]
    scored: tuple[int, ...] = ()  # in the layers that were scored


@dataclass(frozen=True, eq=False)
class Selection:
    """Which patches an inference kept, as ascending indices over all views."""

    kept_static: Tensor
    kept_final: Tensor
    set_sizes: Tensor  # (3, V): global, dynamic, local; zero where nothing was selected


class DenseDecoding:
    """Every pass with every token."""

    def __init__(self, model: OpenVLA, layout: SequenceLayout, rope: Rope, clock: StageClock, embedded: Embedded):
        self.lengths: list[PassLengths] = []
        self._model, self._layout, self._rope, self._clock, self._embedded = model, layout, rope, clock, embedded

    def __call__(self, own: Tensor | None = None, actions: Tensor | None = None) -> Tensor:
        self._clock.mark("decoder")
        hidden = self._model.decoder.norm(self._pass(own, actions))
        self._clock.mark("head")
        result: Tensor = hidden
        return result

    def finish(self) -> Selection:
        """After the last pass."""
        patches = torch.arange(self._layout.num_patches, device=self._embedded.patches.device)
        return Selection(patches, patches, patches.new_zeros(3, self._model.config.num_views))

    def _pass(self, own: Tensor | None, actions: Tensor | None) -> Tensor:
        """Hidden states of the action rows after the last layer."""
        x = self._assemble(self._embedded.patches, own, actions)
        self.lengths.append(PassLengths((len(x),) * self._model.config.decoder.num_layers))
        *layers, last = self._model.decoder.layers
        for layer in layers:
            x, _, _ = layer(x, self._rope)
        result: Tensor = last(x, self._rope, self._layout.action_rows(self._layout.num_patches))[0]
        return result

    def _assemble(self, patches: Tensor, own: Tensor | None, actions: Tensor | None) -> Tensor:
        embedded = self._embedded
        state = [embedded.proprio] if own is None else [embedded.proprio, own]
        return self._model.assemble(embedded.text, patches, state, actions)


class PrunedDecoding(DenseDecoding):
    """Scoring and pruning between the layers, in the first pass or in all."""

    def __init__(
        self,
        model: OpenVLA,
        layout: SequenceLayout,
        rope: Rope,
        clock: StageClock,
        embedded: Embedded,
        pruning: Pruning,
        similarity: Tensor,
        displacement: Tensor,
        run_type: type[PruningRun],
    ):
        super().__init__(model, layout, rope, clock, embedded)
        self._pruning, self._similarity, self._run_type = pruning, similarity, run_type
        self._run: PruningRun | None = None
        if pruning.config.history_motion != "none":
            pruning.state.history.move(displacement)

    def finish(self) -> Selection:
        """Hand the scores of the last pass that was scored to the next inferences."""
        assert self._run is not None
        self._clock.mark("selection")
        self._run.finish()
        return Selection(self._run.kept_static, self._run.alive, self._run.set_sizes)

    def _pass(self, own: Tensor | None, actions: Tensor | None) -> Tensor:
        if self._run is None or self._pruning.config.reselect:
            self._run = self._new_run(self._assemble(self._embedded.patches, own, actions))
            return self._select(self._run)
        kept = self._embedded.patches.index_select(0, self._run.kept_static)
        return self._repeat(self._run, self._assemble(kept, own, actions))

    def _new_run(self, x: Tensor) -> PruningRun:
        pruning = self._pruning
        return self._run_type(
            pruning.config, pruning.schedule, pruning.state, self._layout, self._similarity, x, self._rope
        )

    def _select(self, run: PruningRun) -> Tensor:
        schedule = self._pruning.schedule
        lengths: list[int] = []
        for number, layer in enumerate(self._model.decoder.layers, start=1):
            lengths.append(len(run.x))
            run.x, q, k = layer(run.x, run.rope, self._rows(number, len(run.alive)))
            if number in schedule.scored_layers:
                self._clock.mark("selection")
                run.after_layer(number, q, k)
                self._clock.mark("decoder")
        scored = tuple(lengths[number - 1] for number in sorted(schedule.scored_layers))
        self.lengths.append(PassLengths(tuple(lengths), scored))
        return run.x

    def _repeat(self, run: PruningRun, x: Tensor) -> Tensor:
        """A pass that drops after each layer what `run` dropped there."""
        rope, count, lengths = run.static_rope, len(run.kept_static), []
        for number, layer in enumerate(self._model.decoder.layers, start=1):
            lengths.append(len(x))
            x, _, _ = layer(x, rope, self._rows(number, count))
            if number in run.dropped:
                kept, rope = run.dropped[number]
                x, count = keep_patches(x, kept, count), len(kept)
        self.lengths.append(PassLengths(tuple(lengths)))
        return x

    def _rows(self, number: int, num_patches: int) -> slice:
        """Rows that go on behind a layer: behind the last one, the action rows alone."""
        is_last = number == self._model.config.decoder.num_layers
        return self._layout.action_rows(num_patches) if is_last else slice(None)
