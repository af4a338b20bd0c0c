"""A small real world: SmolLM2-135M-Instruct with an alignment adapter, a guard and a reward model."""
