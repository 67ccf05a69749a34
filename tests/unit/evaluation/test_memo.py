"""What was written once is not written again, and nothing stale is ever given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conpet.backbones.generative import GenerativeBackbone
from conpet.encoding.encode import TokenStore
from conpet.evaluation.evaluator import Answer, answer, evaluate
from conpet.evaluation.memo import AnswerMemo, Way
from conpet.methods.base import Method, PhaseSpec, State
from conpet.methods.conpet_dynamic import ConpetDynamic
from conpet.methods.sequential import Sequential
from conpet.objectives.generate import Decoding
from conpet.replay.dynamic import DynamicReplay
from conpet.testing import teach, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream

STREAM = instruction_stream(3)
WAY = Way(("a-1",), (1.0,), {"seed": 1})


def learned(method: Method, n: int = 2) -> State:
    state = tiny_state(
        backbone=tiny_t5(generative=True),
        replay=DynamicReplay(4),
        spec=PhaseSpec(epochs=1, batch_size=4, lr=1e-2),
    )
    state.decoding = Decoding(max_new_tokens=4)
    teach(state, method, *STREAM.tasks[:n])
    return state


class Counted:
    """Counts the prompts that a backbone answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n = 0
        write = GenerativeBackbone.write

        def counted(backbone, input_ids, *args, **options):  # type: ignore[no-untyped-def]
            self.n += len(input_ids)
            return write(backbone, input_ids, *args, **options)

        monkeypatch.setattr(GenerativeBackbone, "write", counted)


def keys(state: State) -> set[str]:
    return {state.cache_key(name) for name in state.pool.names}


def test_an_answer_is_known_by_way_and_row(tmp_path: Path) -> None:
    memo = AnswerMemo(tmp_path / "answers.json")
    memo.put(WAY, "p3", ("yes", 0.5))
    assert memo.get(WAY, "p3") == ("yes", 0.5)
    assert memo.get(WAY, "p4") is None
    for other in (
        Way(("a-2",), (1.0,), {"seed": 1}),
        Way(("a-1",), (0.5,), {"seed": 1}),
        Way(("a-1",), (1.0,), {"seed": 2}),
    ):
        assert memo.get(other, "p3") is None
    memo.save({"a-1", "b-1"})
    assert AnswerMemo(tmp_path / "answers.json").get(WAY, "p3") == ("yes", 0.5)
    memo.put(WAY, "p3", ("yes", 0.5))
    memo.save({"b-1"})
    assert AnswerMemo(tmp_path / "answers.json").get(WAY, "p3") is None


def test_a_way_that_nobody_asks_for_is_forgotten(tmp_path: Path) -> None:
    """Weights of a mix that has moved since would fill the file."""
    moved = Way(("a-1",), (0.5,), {"seed": 1})
    memo = AnswerMemo(tmp_path / "answers.json")
    memo.put(WAY, "p3", ("yes", 0.5))
    memo.put(moved, "p3", ("no", 0.5))
    memo.save({"a-1"})
    again = AnswerMemo(tmp_path / "answers.json")
    assert again.get(WAY, "p3") == ("yes", 0.5)
    again.save({"a-1"})
    last = AnswerMemo(tmp_path / "answers.json")
    assert last.get(WAY, "p3") == ("yes", 0.5) and last.get(moved, "p3") is None


def test_a_second_evaluation_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    method = Sequential()
    state, memo = learned(method), AnswerMemo()
    count = Counted(monkeypatch)
    first = evaluate(state, method, state.history, memo)
    assert count.n == sum(len(task.test) for task in STREAM.tasks[:2])
    assert evaluate(state, method, state.history, memo) == first
    assert count.n == 12


def test_an_answer_belongs_to_its_prompt_not_to_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows of data that were never learned come again for other data."""
    method = Sequential()
    state, memo = learned(method), AnswerMemo()
    evaluate(state, method, state.history, memo)
    count = Counted(monkeypatch)
    other = TokenStore(state.store.encoder)
    rows = other.add(STREAM.tasks[2].test)
    assert set(rows.tolist()) <= set(np.concatenate([t.train for t in state.history]).tolist())
    found = answer(state, method, [other.batch(rows).without_answers()], memo=memo)
    assert count.n == len(rows) == len(found)


def test_an_adapter_that_has_learned_more_writes_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    method = Sequential()
    state, memo = learned(method), AnswerMemo()
    evaluate(state, method, state.history, memo)
    memo.save(keys(state))
    teach(state, method, STREAM.tasks[2])
    count = Counted(monkeypatch)
    with_memo = evaluate(state, method, state.history, memo)
    assert count.n == 18
    assert_same(with_memo, evaluate(state, method, state.history))


def assert_same(found: dict[str, list[Answer]], expected: dict[str, list[Answer]]) -> None:
    """But for the rounding of scores: a batch of those that are asked anew is a smaller one."""
    for name, answers in expected.items():
        scores = [answer.score for answer in answers]
        assert [answer.score for answer in found[name]] == pytest.approx(scores, rel=1e-5)
        alike = [
            replace(answer, score=score) for answer, score in zip(found[name], scores, strict=True)
        ]
        assert alike == answers
    assert found.keys() == expected.keys()


def test_a_selector_that_has_moved_asks_only_for_pairs_that_are_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = ConpetDynamic(top_k=2)
    state, memo = learned(method), AnswerMemo()
    evaluate(state, method, state.history, memo)  # all pairs of 2 tasks and 2 adapters
    memo.save(keys(state))
    teach(state, method, STREAM.tasks[2])
    routed = [
        method.route(state, state.batch(task.test).without_answers()).weights
        for task in state.history
    ]
    new = int(routed[2].count_nonzero()) + sum(int(w[:, 2].count_nonzero()) for w in routed[:2])
    count = Counted(monkeypatch)
    with_memo = evaluate(state, method, state.history, memo)
    oracles = 18 - int(sum(len(w) for w in routed))  # the true task is among the pairs, or asked
    assert new <= count.n <= new + 18 + oracles
    assert_same(with_memo, evaluate(state, method, state.history))


def test_among_several_adapters_the_likeliest_pair_answers() -> None:
    method = ConpetDynamic(top_k=2)
    state = learned(method)
    batch = state.batch(state.history[0].test).without_answers()
    routing = method.route(state, batch)
    assert bool((routing.weights > 0).all())
    given = answer(state, method, [batch])
    alone = []
    for column, name in enumerate(routing.names):
        one = torch.zeros_like(routing.weights)
        one[:, column] = 1.0
        written = state.generate(batch, type(routing)(routing.names, one))
        value = routing.weights[:, column].log() + written.log_prob
        texts = [state.store.encoder.decode(ids) for ids in written.ids]
        alone.append((value, texts, name))
    for i, found in enumerate(given):
        best = max(alone, key=lambda candidate: float(candidate[0][i]))
        assert found.label == best[1][i]


def test_sampled_answers_do_not_depend_on_the_batch() -> None:
    method = Sequential()
    state = learned(method)
    state.decoding = Decoding(max_new_tokens=5, sample=True, temperature=1.5, seed=3)
    batch = state.batch(state.history[0].test).without_answers()
    together = [a.label for a in answer(state, method, [batch])]
    alone = [
        a.label
        for i in range(len(batch))
        for a in answer(state, method, [batch.select(torch.tensor([i]))])
    ]
    assert together == alone and len(set(together)) > 1
    state.decoding = Decoding(max_new_tokens=5, sample=True, temperature=1.5, seed=4)
    assert [a.label for a in answer(state, method, [batch])] != together


def test_routing_is_also_told_for_the_input_alone() -> None:
    """Where there is no store of inputs, and where one adapter does everything, there is none."""
    method = ConpetDynamic()
    state = learned(method)
    assert {a.routed_by_input for a in evaluate(state, method, state.history)["even"]} == {None}
    state.inputs = state.store  # as if prompts had no instruction
    for found in evaluate(state, method, state.history)["even"]:
        assert found.routed_by_input == found.routed
