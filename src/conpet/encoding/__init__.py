"""From examples to token ids: prompts, truncation, and the store of a run."""
