# SPDX-License-Identifier: Apache-2.0
"""How a forward pass is run fast: fixed shapes, CUDA graphs, precision, timing."""
