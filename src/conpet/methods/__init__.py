"""Continual-learning methods, one file each. A method says what trains, on what, with which
loss."""
