# SPDX-License-Identifier: Apache-2.0
"""How the node says how it goes: diagnostics, ~/status, records of inferences."""
