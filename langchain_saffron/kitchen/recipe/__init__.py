"""How the shipped weights were made: tokenizer, policies, guard, reward model, and how they are measured."""
