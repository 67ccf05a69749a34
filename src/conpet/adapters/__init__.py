"""Small trainable sets on a frozen backbone: LoRA, bottleneck, full; pool, heads, files."""
