"""Training of adapters: recipe, objective, loop, checkpoints."""
