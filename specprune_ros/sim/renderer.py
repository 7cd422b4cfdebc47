# SPDX-License-Identifier: Apache-2.0
"""Robosuite's off-screen renderer, for processes in which there is more than one, at a time or one after the other."""

import gc
import weakref
from typing import Any

import numpy as np
from robosuite.utils.binding_utils import MjRenderContextOffscreen


class Renderer(MjRenderContextOffscreen):
    """Draws and frees in its own OpenGL context.

    Robosuite 1.4 draws in whichever context is current, and frees there what has the same numbers as its own: once an
    older simulator is garbage, the images of the next one are too.
    """

    _last: "weakref.ref[Renderer] | None" = None  # whose context is current

    def __init__(self, sim: Any) -> None:
        """`sim` keeps it."""
        gc.collect()  # an older one that is freed half-way through would take the new context away
        super().__init__(sim, device_id=-1)
        self._use()

    def render(self, *arguments: Any, **options: Any) -> None:
        self._use()
        super().render(*arguments, **options)

    def read_pixels(self, *arguments: Any, **options: Any) -> np.ndarray:
        self._use()
        return super().read_pixels(*arguments, **options)

    def _use(self) -> None:
        self.gl_ctx.make_current()
        Renderer._last = weakref.ref(self)

    def __del__(self) -> None:
        last = Renderer._last() if Renderer._last is not None else None
        self.gl_ctx.make_current()
        super().__del__()
        if last is not None and last is not self:
            last._use()  # garbage is collected at any time, also while that one draws
