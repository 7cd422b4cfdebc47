# SPDX-License-Identifier: Apache-2.0
"""A layer's patch scores as one Triton kernel: `gpu.py` measures it beside the plain operators.

Product of the instruction's queries with all keys, softmax, mean over the instruction's words: a program a head, the
mean over heads behind it. On a CPU it runs in Triton's interpreter (TRITON_INTERPRET=1), slowly, for the tests.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

KEYS = 64  # per step
FEWEST = 16  # rows that a product has at least


@triton.jit
def _logits(queries, k, head, column, length, k_head, k_row, scale, DIM: tl.constexpr):
    """Of all queries with the keys at `column`, float32; minus infinity behind the last key."""
    dim = tl.arange(0, DIM)
    at = k + head * k_head + column[None, :] * k_row + dim[:, None]
    keys = tl.load(at, mask=column[None, :] < length, other=0.0).to(tl.float32)
    logits = tl.dot(queries, keys, input_precision="ieee") * scale
    return tl.where(column[None, :] < length, logits, float("-inf"))


@triton.jit
def _text_scores_kernel(
    q, k, out, words, length, count, q_head, q_row, k_head, k_row, scale,
    ROWS: tl.constexpr, DIM: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """One head: the softmax's maximum and sum over all keys first, then the mean over words for each patch."""
    head = tl.program_id(0)
    row, dim = tl.arange(0, ROWS), tl.arange(0, DIM)
    word = row < words
    queries = tl.load(q + head * q_head + row[:, None] * q_row + dim[None, :], mask=word[:, None], other=0.0)
    queries = queries.to(tl.float32)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, length, KEYS):
        logits = _logits(queries, k, head, start + tl.arange(0, KEYS), length, k_head, k_row, scale, DIM)
        larger = tl.maximum(largest, tl.max(logits, axis=1))
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(logits - larger[:, None]), axis=1)
        largest = larger
    weight = tl.where(word, 1.0 / (total * words), 0.0)
    for start in range(0, count, KEYS):
        patch = start + tl.arange(0, KEYS)
        logits = _logits(queries, k, head, 1 + patch, length, k_head, k_row, scale, DIM)  # key 0 is BOS
        share = tl.exp(logits - largest[:, None]) * weight[:, None]
        tl.store(out + head * count + patch, tl.sum(share, axis=0), mask=patch < count)


def text_scores(q: Tensor, k: Tensor, text: slice, count: int) -> Tensor:
    """Same as `patch_scores(text_attention(q, k, text)[:, :, 1 : 1 + count])`: (heads, L, head_dim) twice -> (count,).

    `head_dim`: a power of two, 16 or more, contiguous.
    """
    heads, length, dim = k.shape
    asked = q[:, text]
    words = asked.shape[1]
    out = k.new_empty(heads, count, dtype=torch.float32)
    strides = asked.stride(0), asked.stride(1), k.stride(0), k.stride(1)
    rows = max(FEWEST, triton.next_power_of_2(words))
    _text_scores_kernel[(heads,)](
        asked, k, out, words, length, count, *strides, dim**-0.5, ROWS=rows, DIM=dim, KEYS=KEYS
    )
    return out.mean(dim=0)
