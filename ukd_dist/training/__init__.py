"""The training loop, its engines and its checkpoints."""
