# SPDX-License-Identifier: Apache-2.0
"""What `scripts/demo` starts: LIBERO, the policy node, a recorder, and what came of it on disk."""
