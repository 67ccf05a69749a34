"""Ask a method for answers, and write down what it said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256

import torch
from torch import Tensor

from conpet.encoding.encode import EncodedTask
from conpet.evaluation.memo import AnswerMemo, Text, Way
from conpet.methods.base import Method, State
from conpet.methods.passes import one_each
from conpet.types import Batch, Prediction, Routing


@dataclass(frozen=True)
class Answer:
    """One answer with what is needed to judge it.

    Attributes:
        row: of the example in the token store.
        label: the class, or the answer in free text.
        score: see ``Prediction``.
        routed: the tasks that were routed to, best first.
        oracle: the answer if the true task were known; None where that was not asked.
        routed_by_input: the tasks that would be routed to without the instruction; None where
            there is none, or nothing is routed.
    """

    row: int
    label: str
    score: float
    routed: tuple[str, ...]
    oracle: str | None
    routed_by_input: tuple[str, ...] | None = None


@torch.no_grad()
def answer(
    state: State,
    method: Method,
    batches: Iterable[Batch],
    *,
    with_oracle: bool = False,
    memo: AnswerMemo | None = None,
) -> list[Answer]:
    """Predict every example of the batches.

    The method sees neither label nor task, unless it declares ``needs_task_id``. ``with_oracle``
    adds the answer it would give if it knew the task (for the split of errors; needs
    ``batch.task``). Free answers that ``memo`` knows are not written again.
    """
    memo = memo or AnswerMemo()
    answers: list[Answer] = []
    labels = state.labels
    for batch in batches:
        seen = batch if method.needs_task_id else batch.without_answers()
        routing = method.route(state, seen)
        oracle: Sequence[str | None] = [None] * len(batch)
        if state.writes:
            texts = _write(state, seen, routing, memo)
            if with_oracle:
                oracle = _written_oracle(state, method, batch, routing, texts, memo)
        else:
            scores = method.scores(state, seen, routing)  # (B, C)
            texts = _classes(labels, scores)
            if with_oracle:
                oracle = _oracle(state, method, batch, routing, scores)
        answers += [
            Answer(row, text, p, tasks, known, by_input)
            for row, (text, p), tasks, known, by_input in zip(
                batch.rows.tolist(),
                texts,
                ranked(routing),
                oracle,
                _by_input(state, method, batch, routing) if with_oracle else [None] * len(batch),
                strict=True,
            )
        ]
    return answers


def _classes(labels: Sequence[str], scores: Tensor) -> list[Text]:
    """The best class of each row of scores (B, C), and its probability."""
    score, column = scores.max(dim=1)
    return [(labels[c], p) for c, p in zip(column.tolist(), score.exp().tolist(), strict=True)]


def _write(state: State, batch: Batch, routing: Routing, memo: AnswerMemo) -> list[Text]:
    """Answers in free text.

    ``mix`` and ``concat``: one a prompt. ``expand``: every routed adapter writes one, and the best
    is given: by log weight of the routing plus mean log-probability of the answer's tokens.
    """
    if routing.combine != "expand":
        return _write_mixed(state, batch, routing, memo)
    example, column = routing.weights.nonzero(as_tuple=True)
    pairs = one_each(routing.names, column)
    written = _write_mixed(state, batch.select(example), pairs, memo)
    weights = routing.weights[example, column].tolist()
    best: dict[int, tuple[float, Text]] = {}
    for i, weight, text in zip(example.tolist(), weights, written, strict=True):
        value = weight * text[1]  # the product orders as the sum of the logs does
        if i not in best or value > best[i][0]:
            best[i] = (value, text)
    return [best[i][1] for i in range(len(batch))]


def _write_mixed(state: State, batch: Batch, routing: Routing, memo: AnswerMemo) -> list[Text]:
    """The answers that are known, and the rest as one batch."""
    ways, prompts = _ways(state, routing), _digests(batch)
    texts = [memo.get(way, prompt) for way, prompt in zip(ways, prompts, strict=True)]
    todo = [i for i, text in enumerate(texts) if text is None]
    if todo:
        at = torch.tensor(todo, device=state.device)
        written = state.generate(batch.select(at), routing.rows(at))
        scores = written.log_prob.exp().tolist()
        for i, ids, score in zip(todo, written.ids, scores, strict=True):
            texts[i] = text = (state.store.encoder.decode(ids), score)
            memo.put(ways[i], prompts[i], text)
    return [text for text in texts if text is not None]


def _digests(batch: Batch) -> list[str]:
    """Of each prompt's tokens, without the padding."""
    lengths = batch.attention_mask.sum(dim=1).tolist()
    rows = zip(batch.input_ids.cpu().numpy(), lengths, strict=True)
    return [sha256(ids[:n].tobytes()).hexdigest()[:32] for ids, n in rows]


def _ways(state: State, routing: Routing) -> list[Way]:
    """How each example of a ``mix`` or ``concat`` routing is answered."""
    keys = [state.cache_key(name) for name in routing.names]
    decoding = asdict(state.decoding)
    return [
        Way(
            tuple(key for key, weight in zip(keys, row, strict=True) if weight),
            tuple(weight for weight in row if weight),
            decoding,
        )
        for row in routing.weights.tolist()
    ]


def _written_oracle(
    state: State,
    method: Method,
    batch: Batch,
    routing: Routing,
    texts: Sequence[Text],
    memo: AnswerMemo,
) -> list[str]:
    """What is written if the true task is known; only where that changes the routing it is asked
    for."""
    known = method.oracle(state, batch)
    if known.names != routing.names:
        return [text for text, _ in _write(state, batch.without_answers(), known, memo)]
    pairs = known.combine == routing.combine == "expand"  # then weights only rank the answers
    ours, theirs = routing.weights, known.weights
    same = (((ours != 0) == (theirs != 0)) if pairs else (ours == theirs)).all(dim=1)
    out = [text for text, _ in texts]
    other = (~same).nonzero()[:, 0]
    if len(other):
        asked = _write(state, batch.select(other).without_answers(), known.rows(other), memo)
        for i, (text, _) in zip(other.tolist(), asked, strict=True):
            out[i] = text
    return out


def _by_input(
    state: State, method: Method, batch: Batch, routing: Routing
) -> Sequence[tuple[str, ...] | None]:
    """The tasks that the input field alone is routed to, for a router that sees the prompt."""
    if state.inputs is None or method.needs_task_id or len(routing.names) < 2:
        return [None] * len(batch)
    alone = state.batch_of_inputs(batch.rows.cpu().numpy())
    return ranked(method.route(state, alone))


def ranked(routing: Routing) -> list[tuple[str, ...]]:
    """The adapters of each example, largest weight first; shared adapters name no task.

    Where several weigh the same, as when all tasks answer, nothing was routed: an empty tuple.
    """
    weights = routing.weights
    even = (weights == weights[:, :1]).all(dim=1) & (len(routing.names) > 1)
    example, column = ((weights != 0) & ~even[:, None]).nonzero(as_tuple=True)
    found: list[list[tuple[float, int]]] = [[] for _ in weights]  # few of many
    for i, j, weight in zip(
        example.tolist(), column.tolist(), weights[example, column].tolist(), strict=True
    ):
        if not routing.names[j].startswith("@"):
            found[i].append((-weight, j))
    return [tuple(routing.names[j] for _, j in sorted(pairs)) for pairs in found]


def by_weight(routing: Routing) -> list[dict[str, float]]:
    """The weight of each task's adapter, by example, largest first; shared adapters name no task.

    Where all inputs go one way, through one shared adapter or through all adapters apart, the dicts
    are empty.
    """
    even = bool((routing.weights == routing.weights[:, :1]).all())
    if routing.combine != "mix" and even and len(routing.names) > 1:
        return [{} for _ in range(len(routing.weights))]
    order = routing.weights.argsort(dim=1, descending=True, stable=True).tolist()
    return [
        {routing.names[j]: row[j] for j in columns if not routing.names[j].startswith("@")}
        for columns, row in zip(order, routing.weights.tolist(), strict=True)
    ]


def _oracle(
    state: State, method: Method, batch: Batch, routing: Routing, scores: Tensor
) -> list[str]:
    """The best label within the true task, by the routing that the true task would get."""
    known = method.oracle(state, batch)
    if known.names != routing.names or not torch.equal(known.weights, routing.weights):
        scores = method.scores(state, batch, known)
    labels = state.labels
    out: list[str] = []
    for row, index in zip(scores, batch.task.tolist(), strict=True):
        task = state.history[index]
        columns = row[task.first_column : task.first_column + len(task.labels)]
        out.append(labels[task.first_column + int(columns.argmax())])
    return out


def evaluate(
    state: State, method: Method, tasks: Sequence[EncodedTask], memo: AnswerMemo | None = None
) -> dict[str, list[Answer]]:
    """Answers to the test parts of ``tasks``, by task name, in the order of the test part."""
    out, learned = {}, set(state.task_names)
    for task in tasks:
        chunks = state.chunks(task.test)
        answers = answer(state, method, chunks, with_oracle=task.name in learned, memo=memo)
        by_row = {a.row: a for a in answers}
        out[task.name] = [by_row[int(row)] for row in task.test]
    return out


def to_predictions(answers: Sequence[Answer], ids: Sequence[str]) -> list[Prediction]:
    """Attach the examples' ids; ``answers`` in the order of ``ids``."""
    return [Prediction(i, a.label, a.score, a.routed) for i, a in zip(ids, answers, strict=True)]
