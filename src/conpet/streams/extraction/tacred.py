"""TACRED (LDC2018T24): train.json, dev.json and test.json, each a list of objects.

Of each object are read: id, token, subj_start, subj_end, obj_start, obj_end (token numbers, the end
INCLUDED) and relation. The subject is the head of the relation, the object its tail. Examples of
the class "no_relation" are left out and counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conpet.errors import DataError
from conpet.streams.checks import Split
from conpet.streams.extraction.parts import Parts, TokenText, crossing, part_files, relation_row
from conpet.streams.readers import read_json

FILES: dict[Split, tuple[str, ...]] = {
    "train": ("train.json",),
    "valid": ("dev.json",),
    "test": ("test.json",),
}
NO_RELATION = "no_relation"
CROSSING = "pairs of entities that overlap in part"
_TEXTS = ("id", "relation")
_BOUNDS = ("subj_start", "subj_end", "obj_start", "obj_end")


def read(folder: Path) -> Parts:
    """One row a relation, under the owners' ids."""
    parts = Parts()
    for split, path in part_files(folder, FILES).items():
        items = read_json(path)
        if not isinstance(items, list):
            raise DataError(
                f"{path} holds a JSON {type(items).__name__}; TACRED is a list of objects; copy "
                "the file again from the LDC's folder data/json"
            )
        rows = parts.rows.setdefault(split, [])
        for number, item in enumerate(items, start=1):
            source = f"{path} item {number}"
            _check(source, item)
            if item["relation"] == NO_RELATION:
                parts.left_out[NO_RELATION] += 1
                continue
            joined = TokenText(item["token"], source)
            head = joined.span(item["subj_start"], item["subj_end"] + 1)
            tail = joined.span(item["obj_start"], item["obj_end"] + 1)
            if crossing(head, tail):
                parts.left_out[CROSSING] += 1
            else:
                label = item["relation"]
                rows.append(relation_row(source, item["id"], joined.text, head, tail, label))
    return parts


def _check(source: str, item: Any) -> None:
    if not isinstance(item, dict):
        raise DataError(f"{source} is {item!r:.60}; allowed: an object; copy the file again")
    wrong = [key for key in _TEXTS if not isinstance(item.get(key), str)]
    wrong += [key for key in _BOUNDS if type(item.get(key)) is not int]
    token = item.get("token")
    if not isinstance(token, list) or not all(isinstance(word, str) for word in token):
        wrong.append("token")
    if wrong:
        raise DataError(
            f"{source} lacks {', '.join(wrong)}, or it is of another type; allowed: texts "
            f"({', '.join(_TEXTS)}), whole numbers ({', '.join(_BOUNDS)}) and a list of texts "
            "(token); copy the file again from the LDC's folder data/json"
        )
