"""Speed and memory of medsam-adapter beside transformers' own code: `python -m benchmarks.speed`."""
