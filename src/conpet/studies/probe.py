"""``python -m conpet.studies.probe --out FILE ...``: a measurement in a process of its own.

    step KIND LAYERS WIDTH RANK    one training step and one answer at a shape, random weights
    llama                          tuned parameters of adapters of LLaMA-7B, by its shapes
    answer RUN                     open a run and answer: seconds, and the peak of the memory
    top-k RUN 1,2,all              score and seconds of a run's tests by the adapters that answer

The result is a JSON file: the words, and the rows that were found.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conpet.runtime import RunFolder, peak_memory_bytes, set_threads, write_json_atomic
from conpet.studies.arithmetic import head_parameters, lora_parameters

BATCH, LENGTH, CLASSES = 8, 64, 10  # of a step
ROUNDS = 5
ANSWERED = 64  # texts
RANKS = (1, 2, 4, 8, 16)
TARGETS = (("q_proj", "k_proj"), ("q_proj", "v_proj"))
HEADS = (18, 41, 80)  # classes of ACE, TACRED and FewRel in the paper
Found = list[dict[str, Any]]


def step(kind: str, layers: str, width: str, rank: str) -> Found:
    """Median seconds of a training step of one LoRA adapter, and of an answer."""
    import torch
    from torch.nn import functional

    from conpet.adapters.pool import Pool
    from conpet.routing.base import single

    backbone = random_backbone(kind, int(layers), int(width))
    pool = Pool(backbone, kind="lora", rank=int(rank))
    pool.add("probe", seed=0, n_classes=CLASSES, role="task")
    optimiser = torch.optim.AdamW(pool.parameters_of("probe").values())
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 1000, (BATCH, LENGTH), generator=draw)
    labels = torch.randint(CLASSES, (BATCH,), generator=draw)
    routing = single("probe", BATCH, ids.device)

    def logits() -> Any:
        with pool.routed(routing):
            hidden = backbone(ids, torch.ones_like(ids))
        return pool.head("probe")(hidden.mean(dim=1))

    def train() -> None:
        functional.cross_entropy(logits(), labels).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    step_seconds = _median(train)
    with torch.no_grad():
        answer_seconds = _median(logits)
    weights = sum(p.numel() for p in backbone.model.parameters())
    tuned = sum(p.numel() for p in pool.parameters_of("probe").values())
    found = {"kind": kind, "layers": int(layers), "width": int(width), "rank": int(rank)}
    found |= {"batch": BATCH, "length": LENGTH, "threads": torch.get_num_threads()}
    found |= {"backbone_parameters": weights, "tuned_parameters": tuned}
    found |= {"step_seconds": step_seconds, "answer_seconds": answer_seconds}
    return [found | {"peak_memory_bytes": peak_memory_bytes()}]


def random_backbone(kind: str, layers: int, width: int) -> Any:
    """A BERT or a LLaMA of this shape with random weights; heads of 64 units, or two."""
    import torch
    from transformers import BertConfig, LlamaConfig

    from conpet.backbones.loading import kind_of
    from conpet.testing import tiny_bert

    shape: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": layers}
    shape["num_attention_heads"] = max(2, width // 64)
    config: Any
    if kind == "encoder":
        config = BertConfig(intermediate_size=4 * width, **shape)
    else:
        config = LlamaConfig(intermediate_size=-(-8 * width // 3 // 64) * 64, **shape)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    family = kind_of(kind, config)
    return family(kind, family.auto_class.from_config(config), tiny_bert().tokenizer)


def llama() -> Found:
    """Tuned parameters of adapters of LLaMA-7B; its shapes are asked of a model without weights."""
    from conpet.backbones.shapes import shape_of

    backbone = shape_of("llama-2-7b", generative=True)  # of the sizes of the first LLaMA-7B
    weights, width = sum(p.numel() for p in backbone.model.parameters()), backbone.hidden_size
    found = []
    for targets in TARGETS:
        widths = [(m.in_features, m.out_features) for m in backbone.linears(targets).values()]
        for rank in RANKS:
            adapter = lora_parameters(widths, rank)
            row: dict[str, Any] = {"targets": " ".join(targets), "rank": rank}
            row |= {"backbone_parameters": weights, "tuned_parameters": adapter}
            row["factor"] = round(weights / adapter, 1)
            for n in HEADS:
                tuned = adapter + head_parameters(width, n)
                row[f"tuned_with_head_{n}"] = tuned
                row[f"factor_with_head_{n}"] = round(weights / tuned, 1)
            found.append(row)
    return found


def answer(run: str) -> Found:
    """Open a finished run and label texts of its newest task, as ``conpet predict`` does."""
    from conpet.api import load
    from conpet.api.opened import history_path
    from conpet.training.history import load_task

    opened = peak_memory_bytes()
    model = load(run)
    task = load_task(history_path(RunFolder(Path(run)), len(model.tasks) - 1))
    texts = [example for example in task.test]
    texts = (texts * -(-ANSWERED // len(texts)))[:ANSWERED]
    model.predict(texts)  # opens the run
    seconds = _median(lambda: model.predict(texts))
    return [
        {
            "answer_seconds": seconds / ANSWERED,
            "answer_memory_bytes": peak_memory_bytes(),
            "imports_memory_bytes": opened,
        }
    ]


def top_k(run: str, numbers: str) -> Found:
    """All tests answered anew with so many adapters, as ``conpet eval RUN --top-k`` does."""
    from conpet.api import load

    wanted = [int(word) if word.isdigit() else word for word in numbers.split(",")]
    rows = load(run).evaluate_top_k(wanted)["rows"]
    columns = {"k": "top_k", "average": "top_k_score", "seconds": "top_k_seconds"}
    return [{column: [row[name] for row in rows] for name, column in columns.items()}]


def _median(action: Callable[[], object]) -> float:
    action()
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return round(statistics.median(taken), 6)


MEASURES: dict[str, Callable[..., Found]] = {
    "step": step,
    "llama": llama,
    "answer": answer,
    "top-k": top_k,
}


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--threads", type=int)
    options.add_argument("words", nargs="+")
    args = options.parse_args()
    set_threads(args.threads)
    name, *rest = args.words
    write_json_atomic(args.out, {"words": args.words, "rows": MEASURES[name](*rest)})


if __name__ == "__main__":
    main()
