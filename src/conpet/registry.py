"""One lazy registry: names to ``"module:attr"`` targets that are imported when first asked for.

To add a method, a backbone kind or a metric, write its file and add one line here. A stream is
added by a card in ``streams/cards``. Another package registers through the entry-point group
``conpet.plugins``: each entry point is a function without arguments that calls ``TABLE.register``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from conpet.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """Where a thing is (``"module:attr"``) and what it is, in a line."""

    target: str
    summary: str


class Registry:
    """A table of one kind of thing, e.g. methods."""

    def __init__(self, kind: str, entries: dict[str, Entry]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def register(self, name: str, target: str, summary: str) -> None:
        """Add ``name``; the target is imported only when it is used."""
        if name in self._entries and self._entries[name].target != target:
            raise ConfigError(
                f"{self.kind} '{name}' is registered twice: {self._entries[name].target} and "
                f"{target}; "
                "choose another name for the second"
            )
        self._entries[name] = Entry(target, summary)

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        load_plugins()
        return name in self._entries

    def entry(self, name: str) -> Entry:
        load_plugins()
        if name not in self._entries:
            raise ConfigError(
                f"unknown {self.kind} '{name}'.{did_you_mean(name, self._entries)} "
                f"Allowed: {', '.join(sorted(self._entries))} (conpet ls {self.kind}s)"
            )
        return self._entries[name]

    def load(self, name: str) -> Any:
        """Import and return the thing called ``name``; ConfigError with a suggestion if unknown."""
        module, _, attr = self.entry(name).target.partition(":")
        return getattr(import_module(module), attr)


METHODS = Registry(
    "method",
    {
        "conpet-dynamic": Entry(
            "conpet.methods.conpet_dynamic:ConpetDynamic",
            "one adapter per task, a selector, cached logits (Dynamic ConPET)",
        ),
        "sequential": Entry(
            "conpet.methods.sequential:Sequential",
            "one adapter tuned task after task, no replay: the floor",
        ),
        "replay": Entry(
            "conpet.methods.replay:ExperienceReplay",
            "one adapter on new and old examples (ER), from a memory or by dynamic replay",
        ),
        "emr": Entry(
            "conpet.methods.replay:EMR",
            "replay with a memory chosen by k-means (EMR)",
        ),
        "ea-emr": Entry(
            "conpet.methods.ea_emr:EAEMR",
            "EMR, then a linear map brings old examples back to their places (EA-EMR)",
        ),
        "emar": Entry(
            "conpet.methods.emar:EMAR",
            "replay, then reconsolidation around prototypes (EMAR)",
        ),
        "crl": Entry(
            "conpet.methods.crl:CRL",
            "contrastive replay, distilled geometry, the nearest class mean (CRL)",
        ),
        "ewc": Entry(
            "conpet.methods.ewc:EWC",
            "weights that mattered to old tasks are held in place (EWC), no replay",
        ),
        "lwf": Entry(
            "conpet.methods.lwf:LwF",
            "new examples keep their old answers about old classes (LwF), no replay",
        ),
        "seq-star": Entry(
            "conpet.methods.seq_star:SeqStar",
            "the adapter is frozen after task 1, only rows of the head are added (SEQ*)",
        ),
        "latent-replay": Entry(
            "conpet.methods.latent_replay:LatentReplay",
            "the head is refitted on features drawn from a Gaussian of every class",
        ),
        "sapt": Entry(
            "conpet.methods.sapt:SAPT",
            "adapters mixed and selected by one shared attention, pseudo-samples (SAPT)",
        ),
        "o-lora": Entry(
            "conpet.methods.o_lora:OLoRA",
            "a LoRA a task, all of them added, the new one orthogonal to the old (O-LoRA)",
        ),
        "progprompt": Entry(
            "conpet.methods.progprompt:ProgPrompt",
            "a soft prompt per task before those of all older ones (Progressive Prompts)",
        ),
        "l2p": Entry(
            "conpet.methods.l2p:L2P",
            "soft prompts from a pool, chosen for each input by their keys (L2P)",
        ),
        "epi": Entry(
            "conpet.methods.epi:EPI",
            "a prefix per task, chosen by the nearest class mean on frozen features (EPI)",
        ),
        "lfpt5": Entry(
            "conpet.methods.lfpt5:LFPT5",
            "one soft prompt that answers and writes its own old examples (LFPT5)",
        ),
        "joint": Entry(
            "conpet.methods.joint:Joint",
            "one adapter on the union of all tasks, once: the upper bound",
        ),
        "per-task": Entry(
            "conpet.methods.per_task:PerTask",
            "one adapter per task, the task id given: the oracle",
        ),
        "lda": Entry(
            "conpet.methods.lda:LDA",
            "shrinkage discriminant analysis on the plain backbone's features, nothing trained",
        ),
    },
)

STREAMS = Registry(
    "stream",
    {
        "fewrel": Entry(
            "conpet.streams.cards:fewrel", "FewRel, 69 relations in the ten groups of ConPET"
        ),
        "fewrel-lower": Entry(
            "conpet.streams.cards:fewrel-lower", "FewRel, 80 relations, lower-cased"
        ),
        "clinc150": Entry("conpet.streams.cards:clinc150", "CLINC150, 10 domains x 15 intents"),
        "clinc150-mixed": Entry(
            "conpet.streams.cards:clinc150-mixed", "CLINC150, 15 tasks x 10 intents"
        ),
        "banking77": Entry(
            "conpet.streams.cards:banking77", "BANKING77, 7 tasks x 11 intents (shipped)"
        ),
        "multiconer": Entry(
            "conpet.streams.cards:multiconer", "MultiCoNER v2, 11 tasks x 3 entity types"
        ),
        "fewnerd": Entry(
            "conpet.streams.cards:fewnerd",
            "Few-NERD, 66 entity types in ten groups (bring the data)",
        ),
        "ontonotes": Entry(
            "conpet.streams.cards:ontonotes",
            "OntoNotes, 86 entity types in ten groups (licensed: bring the data)",
        ),
        "bbn": Entry(
            "conpet.streams.cards:bbn",
            "BBN, 46 entity types in ten groups (licensed: bring the data)",
        ),
        "tacred": Entry(
            "conpet.streams.cards:tacred",
            "TACRED, 41 relations in ten groups (licensed: bring the data)",
        ),
        "ace": Entry(
            "conpet.streams.cards:ace",
            "ACE 2005, 18 relations in five groups (licensed: bring the data)",
        ),
        "superni": Entry(
            "conpet.streams.cards:superni",
            "15 tasks of Natural Instructions, free answers (bring the data)",
        ),
        "superni-mini": Entry(
            "conpet.streams.cards:superni-mini",
            "five short tasks of superni (bring the data)",
        ),
        "long-sequence": Entry(
            "conpet.streams.cards:long-sequence",
            "15 classification tasks answered in words (bring the data)",
        ),
    },
)

BACKBONES = Registry(
    "backbone",
    {
        "minilm": Entry(
            "conpet.backbones.embedded:minilm",
            "all-MiniLM-L6-v2, 22M parameters, needs no download",
        ),
        "nano": Entry(
            "conpet.backbones.nano:nano",
            "minilm and a decoder that writes, 37M parameters, needs no download",
        ),
        "tiny-bert": Entry("conpet.testing:tiny_bert", "random BERT, 2 layers: for tests"),
        "tiny-llama": Entry("conpet.testing:tiny_llama", "random LLaMA, 2 layers: for tests"),
        "tiny-qwen": Entry("conpet.testing:tiny_qwen", "random Qwen, 2 layers: for tests"),
        "tiny-t5": Entry("conpet.testing:tiny_t5", "random T5, 2 layers: for tests"),
    },
)

METRICS = Registry(
    "metric",
    {
        "accuracy": Entry(
            "conpet.evaluation.metrics:accuracy", "share of exactly right answers: class labels"
        ),
        "rouge-l": Entry(
            "conpet.evaluation.metrics:rouge_l", "ROUGE-L, F1 with stemming: free answers"
        ),
        "exact-match": Entry(
            "conpet.evaluation.metrics:exact_match",
            "share of right answers; case, punctuation and blanks do not count",
        ),
        "token-f1": Entry(
            "conpet.evaluation.metrics:token_f1", "F1 of words in common, in any order"
        ),
    },
)

_plugins_loaded = False


def load_plugins() -> None:
    """Call the registration functions of installed plugins, once."""
    global _plugins_loaded
    if not _plugins_loaded:
        _plugins_loaded = True
        for point in entry_points(group="conpet.plugins"):
            point.load()()
