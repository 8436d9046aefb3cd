"""The operators yield what a compiled mmcv yielded: tests/data/make_ops.py made it."""

import json

import numpy as np
import pytest
import torch
from ops.cases import CASES
from torch.testing import assert_close

from attn_plugins.ops import extension


@pytest.fixture(scope='module')
def numbers(repo):
    with np.load(repo / 'tests/data/ops.npz') as file:
        return dict(file)


@pytest.mark.parametrize('name', CASES)
def test_yields_what_compiled_mmcv_yields(numbers, name):
    def tensors(kind: str) -> dict[str, torch.Tensor]:
        names = json.loads(str(numbers['index']))[name][kind]
        return {name: torch.from_numpy(numbers[at]) for name, at in names.items()}

    outputs = CASES[name].run(extension, tensors('inputs'))
    expected = tensors('outputs')
    assert outputs.keys() == expected.keys()
    for key, out in outputs.items():
        wanted = expected[key].to(out.dtype)
        assert_close(out, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_every_case_is_in_the_file(numbers):
    assert json.loads(str(numbers['index'])).keys() == CASES.keys()
