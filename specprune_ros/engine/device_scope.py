# SPDX-License-Identifier: Apache-2.0
"""What must hold around all work on the model's device: its GPU is the current one, and float32 is float32.

Streams, events, graphs and memory pools of torch belong to the *current* device, which is a property of the thread, so
a model on cuda:1 needs it set in every call. TF32 (on by default in cuDNN's convolutions, and settable for matrix
products by any other code of the process) keeps ten bits of a float32: too few for frames that are resized by products,
and for a float32 model, which is wanted for parity.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

import torch

Method = TypeVar("Method", bound=Callable[..., Any])


def current_device(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a GPU the current one of this thread; nothing on a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def exact_float32() -> Iterator[None]:
    """No TF32 in matrix products and convolutions. The setting is the process's, so it is put back afterwards."""
    # torch's own types do not know of the second one.
    switches: tuple[Any, ...] = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


@contextmanager
def device_scope(device: torch.device) -> Iterator[None]:
    """Around everything that an engine does on a device, in whatever thread."""
    with torch.inference_mode(), current_device(device), exact_float32():
        yield


def on_model_device(method: Method) -> Method:
    """A method of an object with a `model` that runs in the device scope of the model."""

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with device_scope(self.model.device):
            return method(self, *args, **kwargs)

    return cast(Method, run)
