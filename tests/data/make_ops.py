"""Makes ops.npz: what the operators of a compiled mmcv yield for small inputs.

    PYTHONPATH=tests python tests/data/make_ops.py

in an environment with a compiled mmcv. The inputs are in the file as well: what a seed
yields may change with torch. Inputs that several cases share are there once.
"""

import json
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmcv import _ext
from ops.cases import CASES, inputs_of

FILE = Path(__file__).with_name('ops.npz')


def main() -> None:
    if _ext.__file__.endswith('.py'):
        raise SystemExit(f'{_ext.__file__} is no compiled mmcv')
    torch.set_num_threads(1)
    arrays: dict[str, np.ndarray] = {}
    numbers: dict[bytes, str] = {}
    index: dict[str, dict[str, dict[str, str]]] = {}

    def add(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
        names = {}
        for name, tensor in tensors.items():
            array = tensor.numpy()
            if array.dtype == np.int64:
                array = array.astype(np.int16)
            key = f'{array.dtype}{array.shape}'.encode() + array.tobytes()
            names[name] = numbers.setdefault(key, str(len(numbers)))
            arrays[names[name]] = array
        return names

    for name, case in CASES.items():
        inputs = inputs_of(case, seed=0)
        index[name] = {
            'inputs': add(inputs),
            'outputs': add(case.run(_ext, inputs)),
        }
    arrays['index'] = np.array(json.dumps(index))
    arrays['made_with'] = np.array(
        f'mmcv {mmcv.__version__}, torch {torch.__version__}'
    )
    np.savez_compressed(FILE, **arrays)
    print(f'{FILE}: {len(index)} cases, {FILE.stat().st_size} bytes')


if __name__ == '__main__':
    main()
