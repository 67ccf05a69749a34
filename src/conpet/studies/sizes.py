"""How large a study is: its seeds, and the settings that all of its runs share."""

from __future__ import annotations

from dataclasses import dataclass

DYNAMIC = ("method.selector_target=label", "method.balance=true")
"""Options of conpet-dynamic that were chosen on validation data (``benchmarks/choose.py``)."""

_TAUGHT = ("train.lr=4e-3", "replay.batch_limit=20", "replay.new_to_old=0.34")


@dataclass(frozen=True)
class Size:
    """A name, seeds, and key=value words of every ``conpet run``."""

    name: str
    seeds: tuple[int, ...]
    words: tuple[str, ...]


SIZES = {
    "tiny": Size(
        "tiny",
        (1,),
        (
            "backbone=tiny-bert",
            "stream.train_per_class=2",
            "stream.valid_per_class=1",
            "stream.test_per_class=1",
            "train.epochs=1",
            "train.batch_size=16",
            "replay.batch_limit=3",
        ),
    ),
    "small": Size(
        "small",
        (1,),
        (
            "backbone=minilm",
            "stream.train_per_class=20",
            "stream.valid_per_class=4",
            "stream.test_per_class=8",
            "train.epochs=3",
            *_TAUGHT,
        ),
    ),
    "full": Size(
        "full",
        (1, 2, 3),
        ("backbone=minilm", "stream.preset=small", "train.epochs=4", *_TAUGHT),
    ),
}
"""tiny: seconds, random weights, shipped data; small: minutes on 2 cores; full: what to cite."""
