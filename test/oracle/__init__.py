# SPDX-License-Identifier: Apache-2.0
"""SpecPrune-VLA in slow, obvious NumPy (float64): what docs/method.md says, in the order in which it says it.

Written from the method's description alone. The fast code in `specprune_ros` must agree with it.
"""
