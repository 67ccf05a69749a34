"""Frozen pretrained models: one class a kind, loaded through transformers."""
