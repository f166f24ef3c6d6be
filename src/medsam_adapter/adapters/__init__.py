"""The paper's adapters as a PEFT method: configuration, bottlenecks, wrapped blocks, tuner."""
