"""The training text: screened against the streams, tokenised, in memory-mapped arrays.

Notation: D documents, N tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from overlap import LONG, SHORT, Index, stream_files, stream_texts
from text import NOVELS, WIKIPEDIA, Document, documents
from transformers import PreTrainedTokenizerBase

from conpet.errors import CheckpointError
from conpet.runtime import derive_seed, read_json, write_json_atomic

VERSION = 1
"""Raise it when screening or tokenising changes: prepared folders are then made anew."""
PARTS = ("train", "valid")
VALID_SHARE = 0.005


@dataclass(frozen=True)
class Corpus:
    """One part of the training text.

    Attributes:
        tokens: ids of all documents behind one another, without special tokens; (N,) uint16.
        offsets: where each document begins, and N at the end; (D + 1,) int64.
    """

    tokens: NDArray[np.uint16]
    offsets: NDArray[np.int64]


def prepare(data: Path, out: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Make the training text in ``out``, unless it is there; return its figures.

    The two steps are files of their own: what an interrupted run has finished is not done again.
    """
    source = {"version": VERSION, "data": fingerprint(data)}
    done = out / "prepare.json"
    if done.is_file() and (figures := read_json(done))["source"] == source:
        print(f"prepare: done before, {out}")
        return dict(figures)
    done.unlink(missing_ok=True)
    n_documents = sum(1 for _ in documents(data))
    screened = screen(data, out / "screen.json", source, n_documents)
    dropped = frozenset(screened.pop("dropped"))
    kept = (d for d in _counted(documents(data), "tokenised", n_documents) if d.name not in dropped)
    figures = screened | tokenise(kept, out, tokenizer)
    write_json_atomic(done, figures)
    return figures


def load(out: Path, part: str) -> Corpus:
    """A prepared part, memory-mapped.

    Raises:
        CheckpointError: it was not prepared.
    """
    if not (out / "prepare.json").is_file():
        raise CheckpointError(
            f"no prepared text in '{out}'; make it: python recipes/nano/make.py --until prepare"
        )
    tokens = np.load(out / f"{part}_tokens.npy", mmap_mode="r")
    return Corpus(tokens, np.load(out / f"{part}_offsets.npy"))


def screen(data: Path, path: Path, source: dict[str, Any], n_documents: int) -> dict[str, Any]:
    """Name the documents that share text with a stream, and write what was found to ``path``."""
    if path.is_file() and (before := read_json(path))["source"] == source:
        print(f"prepare: screened before, {path}")
        return dict(before)
    index = Index(stream_texts(stream_files(data)))
    print(f"prepare: {index.n_texts:,} texts and lines of the streams to be kept out")
    counts: dict[str, dict[str, int]] = {}
    dropped = []
    for document in _counted(documents(data), "screened", n_documents):
        text = "\n".join(document.paragraphs)
        overlaps = index.overlaps(text)
        if overlaps:
            dropped.append(document.name)
        count = counts.setdefault(document.name.partition("/")[0], {})
        for key, value in (("documents", 1), ("words", len(text.split()))):
            count[key] = count.get(key, 0) + value
            count[f"dropped_{key}"] = count.get(f"dropped_{key}", 0) + value * overlaps
    rule = {"ngram": LONG, "shortest_text": SHORT, "stream_texts": index.n_texts}
    result = {"source": source, "rule": rule, "text": counts, "dropped": dropped}
    write_json_atomic(path, result)
    return result


def tokenise(
    kept: Iterable[Document], out: Path, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Write tokens and offsets of the documents; return the counts of each part."""
    ids: dict[str, list[NDArray[np.uint16]]] = {part: [] for part in PARTS}
    for document in kept:
        encoded = tokenizer(
            list(document.paragraphs), add_special_tokens=False, truncation=False, verbose=False
        )
        tokens = np.fromiter(chain.from_iterable(encoded["input_ids"]), np.uint16)
        ids[part_of(document.name)].append(tokens)
    out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    for part, arrays in ids.items():
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        np.save(out / f"{part}_tokens.npy", np.concatenate([np.empty(0, np.uint16), *arrays]))
        np.save(out / f"{part}_offsets.npy", offsets)
        figures[part] = {"documents": len(arrays), "tokens": int(offsets[-1])}
    return figures


def part_of(name: str) -> str:
    """``valid`` for about one document in 200, by its name alone; else ``train``."""
    return "valid" if derive_seed("nano", name) / 2**63 < VALID_SHARE else "train"


def fingerprint(data: Path) -> str:
    """sha256 over names and content of all files that are read."""
    digest = sha256()
    for path in [data / WIKIPEDIA, data / NOVELS, *stream_files(data)]:
        if path.is_file():  # what is missing is said where it is read
            digest.update(str(path.relative_to(data)).encode())
            digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _counted(every: Iterable[Document], doing: str, total: int) -> Iterator[Document]:
    """The same documents, with a line of progress on the console every ten seconds."""
    begin = last = time.monotonic()
    for count, document in enumerate(every):
        now = time.monotonic()
        if now - last > 10:
            last, rate = now, count / (now - begin)
            print(
                f"prepare: {doing} {count:,} of {total:,} documents, {rate:.0f}/s, "
                f"{(total - count) / rate:.0f} s to go",
                flush=True,
            )
        yield document
