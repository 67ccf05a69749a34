"""For tests of conpet and of its plugins.

- ``tiny_bert``, ``tiny_llama``, ``tiny_qwen``, ``tiny_t5``: random backbones with real tokenizers.
- ``synthetic_stream``: a small stream that any method can learn.
- ``tiny_state``, ``teach``: a state without a run folder, for unit tests.
- ``conpet.testing.contract.MethodContract``: the tests that every method has to pass (needs
  pytest).
"""

from conpet.testing.backbones import tiny_bert, tiny_llama, tiny_qwen, tiny_t5
from conpet.testing.state import teach, tiny_state
from conpet.testing.streams import synthetic_stream

__all__ = [
    "synthetic_stream",
    "teach",
    "tiny_bert",
    "tiny_llama",
    "tiny_qwen",
    "tiny_state",
    "tiny_t5",
]
