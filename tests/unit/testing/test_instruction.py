"""The made-up instruction tasks: learnable rules, no input twice, longer streams extend shorter."""

from __future__ import annotations

from conpet.testing.instruction import TASKS, instruction_stream


def test_rules_hold() -> None:
    for task in instruction_stream(2 * len(TASKS), train=40).tasks:
        examples = (*task.train, *task.valid, *task.test)
        assert len({e.text for e in examples}) == len(examples)
        for e in examples:
            assert e.instruction == TASKS[task.name.removesuffix("-2")][0]
            if task.name.startswith("even"):
                odd = int(e.text.rstrip(".").split()[-1]) % 2
                assert e.answers == ("no" if odd else "yes",)
            if task.name.startswith("swap"):
                assert e.answers[0].split() == e.text.split()[::-1]
            if task.name.startswith("first"):
                assert e.text.split()[0] == e.answers[0]
            if task.name.startswith("mood"):
                assert e.answers[0] in ("good", "bad")
            if task.name.startswith("either"):
                assert len(e.answers) == 2 and all(answer in e.text for answer in e.answers)


def test_more_tasks_extend_fewer_and_the_seed_changes_the_texts() -> None:
    assert instruction_stream(7).extends(instruction_stream(2))
    assert instruction_stream().fingerprint == instruction_stream().fingerprint
    assert instruction_stream(seed=1).fingerprint != instruction_stream().fingerprint
    sizes = [(len(t.train), len(t.valid), len(t.test)) for t in instruction_stream().tasks]
    assert sizes == [(12, 4, 6)] * 3
