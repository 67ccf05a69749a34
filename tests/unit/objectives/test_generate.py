"""The loss on free answers, and the choice of their tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conpet.objectives.generate import (
    Decoding,
    Pick,
    answer_loss,
    mean_log_prob,
    token_log_probs,
)
from conpet.types import NO_TOKEN

ANSWER = torch.tensor([[3, 1, NO_TOKEN], [0, 2, 4]])
LOGITS = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(4))


def reference() -> np.ndarray:
    """(2, 3) log-probabilities by plain numpy."""
    z = LOGITS.double().numpy()
    log_p = z - np.log(np.exp(z).sum(axis=2, keepdims=True))
    out = np.zeros((2, 3))
    for i, row in enumerate(ANSWER.tolist()):
        for j, token in enumerate(row):
            out[i, j] = log_p[i, j, token] if token != NO_TOKEN else 0.0
    return out


def test_log_probabilities_are_those_of_numpy_and_zero_behind_the_answer() -> None:
    found = token_log_probs(LOGITS[ANSWER != NO_TOKEN], ANSWER)
    np.testing.assert_allclose(found.numpy(), reference(), rtol=0, atol=1e-6)
    assert found[0, 2] == 0


def test_the_loss_is_a_mean_over_tokens_not_over_answers() -> None:
    logits = LOGITS[ANSWER != NO_TOKEN]
    loss = answer_loss(token_log_probs(logits, ANSWER), ANSWER)
    assert float(loss) == pytest.approx(-reference().sum() / 5, abs=1e-6)
    by_answer = mean_log_prob(token_log_probs(logits, ANSWER), ANSWER)
    expected = reference().sum(axis=1) / np.array([2, 3])
    np.testing.assert_allclose(by_answer.numpy(), expected, rtol=0, atol=1e-6)


def test_a_batch_without_answers_has_a_loss_of_zero() -> None:
    nothing = torch.full((2, 3), NO_TOKEN)
    assert float(answer_loss(token_log_probs(LOGITS[:0, 0], nothing), nothing)) == 0.0


SCORES = torch.tensor([[0.0, 1.0, 2.0, -1.0], [0.5, 0.0, 0.0, 0.0]])


def drawn(decoding: Decoding, n: int) -> torch.Tensor:
    """(n, 2) the tokens that n seeds take."""
    ids = torch.zeros(2, 0, dtype=torch.long)
    return torch.stack(
        [Pick(decoding, [2 * i, 2 * i + 1])(ids, SCORES).argmax(dim=1) for i in range(n)]
    )


def test_without_sampling_the_scores_stay() -> None:
    pick = Pick(Decoding())
    assert torch.equal(pick(torch.zeros(2, 0), SCORES), SCORES)
    assert pick.log_probs[0].tolist() == pytest.approx(
        [float(SCORES[0].log_softmax(0)[2]), float(SCORES[1].log_softmax(0)[0])]
    )


def test_tokens_are_drawn_by_their_probabilities() -> None:
    tokens, n = drawn(Decoding(sample=True), 4000), 4000
    for row in (0, 1):
        share = torch.bincount(tokens[:, row], minlength=4) / n
        p = SCORES[row].softmax(0)
        assert bool(((share - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all())


def test_temperature_and_cuts_shape_what_is_drawn_but_not_its_log_probability() -> None:
    assert set(drawn(Decoding(sample=True, top_k=2), 300)[:, 0].tolist()) == {1, 2}
    assert set(drawn(Decoding(sample=True, top_p=0.5), 300)[:, 0].tolist()) == {2}
    assert set(drawn(Decoding(sample=True, temperature=0.01), 300)[:, 0].tolist()) == {2}
    pick = Pick(Decoding(sample=True, temperature=0.01), [1, 2])
    pick(torch.zeros(2, 0, dtype=torch.long), SCORES)
    assert float(pick.log_probs[0][0]) == pytest.approx(float(SCORES[0].log_softmax(0)[2]))


def test_what_is_drawn_depends_on_the_seed_of_the_prompt_alone() -> None:
    ids, decoding = torch.zeros(2, 0, dtype=torch.long), Decoding(sample=True)
    both = Pick(decoding, [5, 6])(ids, SCORES)
    alone = Pick(decoding, [6])(ids[1:], SCORES[1:])
    assert torch.equal(both[1:], alone)


def test_what_was_written_ends_at_the_first_end_token() -> None:
    pick = Pick(Decoding())
    pick.log_probs = [torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -4.0])]
    pick.log_probs.append(torch.tensor([-5.0, -6.0]))
    written = pick.written(torch.tensor([[7, 9, 9], [7, 8, 7]]), end_id=9)
    assert written.ids == [[7], [7, 8, 7]]
    assert written.log_prob.tolist() == [-2.0, -4.0]
