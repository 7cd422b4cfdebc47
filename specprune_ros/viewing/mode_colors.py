"""One colour per pruning mode, in video and plots alike."""

MODE_COLORS = {"off": "#8c8c8c", "dense": "#e08a1e", "coarse": "#2f9e6e", "fine": "#3d7edb"}
