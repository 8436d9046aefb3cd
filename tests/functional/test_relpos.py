"""Tables of relative positions: what each row means, on maps of any size."""

import pytest
import torch
from torch.testing import assert_close

from attn_plugins.functional.relpos import resize_table


def test_at_its_own_size_it_is_the_table_itself():
    table = torch.randn(13, 4)
    assert resize_table(table, 7) is table


@pytest.mark.parametrize('size', [1, 2, 5, 6])
def test_a_smaller_map_takes_the_rows_of_its_offsets(size):
    table = torch.randn(13, 4)
    resized = resize_table(table, size)
    assert resized.shape == (2 * size - 1, 4)
    for offset in range(1 - size, size):
        assert torch.equal(resized[offset + size - 1], table[offset + 6]), offset


@pytest.mark.parametrize(('reference', 'size'), [(2, 3), (4, 7), (7, 11), (3, 40)])
def test_a_larger_map_stretches_them_linearly(reference, size):
    table = torch.randn(2 * reference - 1, 4, dtype=torch.float64)
    resized = resize_table(table, size)
    assert resized.shape == (2 * size - 1, 4)
    for offset in range(1 - size, size):
        # The ends of the map stay its ends.
        place = offset * (reference - 1) / (size - 1) + reference - 1
        left = min(int(place), 2 * reference - 3)
        expected = torch.lerp(table[left], table[left + 1], place - left)
        assert_close(resized[offset + size - 1], expected)


def test_ends_and_centre_keep_their_rows():
    table = torch.randn(13, 4)
    resized = resize_table(table, 20)
    assert_close(resized[[0, 19, 38]], table[[0, 6, 12]])


def test_one_position_is_one_row_everywhere():
    table = torch.randn(1, 4)
    assert_close(resize_table(table, 3), table.expand(5, 4))


@pytest.mark.parametrize('size', [1, 3, 5, 8])
def test_gradcheck(size):
    table = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: resize_table(t, size), table)


@pytest.mark.parametrize('size', [3, 9])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_keeps_half_precision(dtype, size):
    table = torch.randn(9, 4)
    resized = resize_table(table.to(dtype), size)
    assert resized.dtype == dtype
    assert_close(resized.float(), resize_table(table, size), rtol=0.02, atol=0.02)


@pytest.mark.parametrize('shape', [(6, 4), (0, 4), (7,), (7, 4, 1)])
def test_not_a_table(shape):
    with pytest.raises(ValueError, match=r'table must be \(2 \* R - 1, D\)'):
        resize_table(torch.zeros(shape), 3)
