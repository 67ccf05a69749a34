import pytest
import torch

from conpet.errors import ConfigError
from conpet.objectives.classify import NULL_LOGIT, cross_entropy, read_out, side_by_side
from conpet.types import Batch


def batch(mask_position: list[int]) -> Batch:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    n = torch.arange(2)
    return Batch(mask.clone(), mask, torch.tensor(mask_position), n, n, n, n[:, None][:, :0])


HIDDEN = torch.arange(2 * 4 * 3, dtype=torch.float32).reshape(2, 4, 3)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mask", [HIDDEN[0, 2], HIDDEN[1, 0]]),
        ("cls", [HIDDEN[0, 0], HIDDEN[1, 0]]),
        ("last", [HIDDEN[0, 2], HIDDEN[1, 1]]),
        ("mean", [HIDDEN[0, :3].mean(0), HIDDEN[1, :2].mean(0)]),
    ],
)
def test_read_out(how: str, expected: list[torch.Tensor]) -> None:
    torch.testing.assert_close(read_out(HIDDEN, batch([2, 0]), how), torch.stack(expected))


def test_mask_read_out_without_a_mask_is_refused() -> None:
    with pytest.raises(ConfigError, match="read_out 'mask'"):
        read_out(HIDDEN, batch([2, -1]), "mask")


def test_heads_stand_side_by_side_with_null_logits_between() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    out = side_by_side([a, b], [torch.tensor([1]), torch.tensor([0, 1])], [0, 3], (2, 4))
    null = NULL_LOGIT
    assert out.tolist() == [[null, null, null, 3.0], [1.0, 2.0, null, 4.0]]


def test_cross_entropy_keeps_the_divisor_of_the_drawn_batch() -> None:
    logits, label = torch.randn(3, 5), torch.tensor([0, 4, 2])
    expected = torch.nn.functional.cross_entropy(logits, label, reduction="sum") / 8
    torch.testing.assert_close(cross_entropy(logits, label, 8), expected)
