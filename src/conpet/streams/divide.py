"""Examples into train, valid and test: as the data say, and the rest carved from train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from conpet.streams.checks import SPLITS, Split
from conpet.streams.schema import Card
from conpet.streams.splits import Key, carve, carve_overall, its_text
from conpet.streams.tabular import Record
from conpet.types import Example

NOT_ASKED = "validation examples of the data, as valid is '{}'"


def without_valid(records: list[Record], card: Card) -> tuple[list[Record], Counter[str]]:
    """The records without the data's own validation part, where the card has another one made."""
    if card.valid == "auto":
        return records, Counter()
    kept = [record for record in records if record.split != "valid"]
    return kept, Counter({NOT_ASKED.format(card.valid): len(records) - len(kept)})


def divide(
    records: Sequence[Record], card: Card, seed: int, key: Key = its_text
) -> dict[Split, Sequence[Example]]:
    """Examples by split. What the data lack is carved from train, never from test; pooled data
    are all train at first.

    With ``valid: test`` in the card the test examples validate as well, under ids of their own:
    what is chosen on them has seen the test.

    Args:
        key: examples that agree in it go to the same part.
    """
    given: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    for record in records:
        given[record.split or "train"].append(record.example)
    splits: dict[Split, Sequence[Example]] = dict(given)
    take = carve_overall if card.pool == "overall" else carve
    if not given["test"]:
        splits["train"], splits["test"] = take(splits["train"], card.test_share, seed, key)
    if card.valid == "test":
        splits["valid"] = [replace(e, id=f"{e.id}@valid") for e in splits["test"]]
    elif not given["valid"]:
        splits["train"], splits["valid"] = take(splits["train"], card.valid_share, seed, key)
    return splits
