"""How a forward pass is run fast: fixed shapes, CUDA graphs, precision, timing."""
