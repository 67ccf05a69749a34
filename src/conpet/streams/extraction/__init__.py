"""Data sets of entity typing and relation extraction, as their owners distribute them.

Most are licensed and none is shipped: a user who has one puts its files below the data folder. A
reader makes rows of a folder, the same rows that a user's table holds; a card (``streams/cards``)
says the rest: groups, splits, where to get the data.
"""

from conpet.streams.extraction.folders import (
    FORMATS,
    check_classes,
    read_folder,
    without_long_tails,
)
from conpet.streams.extraction.parts import Parts

__all__ = ["FORMATS", "Parts", "check_classes", "read_folder", "without_long_tails"]
