"""Small trainable sets on a frozen backbone: LoRA, bottleneck, prompt, full; pool, heads, files."""
