"""How the node says how it goes: diagnostics, ~/status, records of inferences."""
