"""How the shipped weights of `smollm2` were made: texts, alignment, guard, reward model, and how they are measured."""
