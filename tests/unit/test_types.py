import numpy as np
import pytest
import torch

from conpet.errors import DataError
from conpet.types import AccuracyMatrix, Batch, Example, padded


def batch_of(lengths: list[int]) -> Batch:
    size = padded(max(lengths))
    mask = (torch.arange(size) < torch.tensor(lengths)[:, None]).long()
    n = torch.arange(len(lengths))
    return Batch(mask * 7, mask, n, n, n, n, n[:, None][:, :0])


@pytest.mark.parametrize(("length", "expected"), [(1, 8), (8, 8), (9, 16)])
def test_padded_is_the_next_multiple(length: int, expected: int) -> None:
    assert padded(length) == expected


def test_select_drops_padding_that_no_chosen_example_needs() -> None:
    batch = batch_of([5, 30, 9])
    short = batch.select(torch.tensor([2, 0, 2]))
    assert short.input_ids.shape == (3, 16)
    assert short.rows.tolist() == [2, 0, 2]
    assert short.attention_mask.sum(dim=1).tolist() == [9, 5, 9]


def test_select_of_nothing_is_an_empty_batch() -> None:
    assert len(batch_of([5]).select(torch.zeros(0, dtype=torch.long))) == 0


def test_answers_can_be_hidden() -> None:
    hidden = batch_of([5, 6]).without_answers()
    assert hidden.task.tolist() == hidden.label.tolist() == [-1, -1]


@pytest.mark.parametrize("spans", [((0, 3), (1, 2)), ((0, 3), (0, 5)), ((0, 3), (0, 3))])
def test_entities_may_lie_inside_one_another(spans: tuple) -> None:
    assert Example("x", "abcdef", entities=spans).entities == spans


@pytest.mark.parametrize(
    ("text", "spans", "message"),
    [
        ("  ", (), "empty text"),
        ("abc", ((0, 4),), r"out of range; allowed is 0 <= start < end <= 3"),
        ("abc", ((2, 2),), "out of range"),
        ("abcdef", ((3, 5), (1, 4)), "cross"),
    ],
)
def test_an_example_that_makes_no_sense_is_refused(text: str, spans: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Example("x", text, entities=spans)


def test_a_matrix_fills_short_rows_with_nan() -> None:
    matrix = AccuracyMatrix.from_rows(["a", "b"], [[80.0], [None, 70.0]])
    np.testing.assert_array_equal(matrix.values, [[80, np.nan], [np.nan, 70]])
    assert matrix.to_rows() == [[80.0, None], [None, 70.0]]
