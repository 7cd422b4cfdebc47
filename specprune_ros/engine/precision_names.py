# SPDX-License-Identifier: Apache-2.0
"""The precisions' names, for parameters and command lines, which have to be there before torch is."""

NATIVE = "native"
PRECISIONS = (NATIVE, "int8", "fp8", "int8_weights", "int4_weights")
