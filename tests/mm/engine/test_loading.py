"""mm checkpoints load, anything that could run code does not."""

import argparse
import os
import pickle
import urllib.error

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine')
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

import attn_plugins  # noqa: F401 (installs safe loading)


class Reduced:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def saved(tmp_path, content) -> str:
    path = str(tmp_path / 'checkpoint.pth')
    torch.save(content, path)
    return path


def load(path: str):
    return CheckpointLoader.load_checkpoint(path, map_location='cpu')


def test_message_hub_and_meta_survive(tmp_path):
    hub = MessageHub.get_instance('test_loading')
    for loss in (3.0, 2.0, 1.0):
        hub.update_scalar('train/loss', loss)
    hub.update_info('best', np.float64(1.5))
    content = dict(
        message_hub=hub.state_dict(),
        meta=dict(
            seed=np.int64(3),
            flag=np.bool_(True),
            dataset_meta=dict(
                classes=('a', 'b'), palette=np.arange(6, dtype=np.uint8).reshape(2, 3)
            ),
        ),
    )
    loaded = load(saved(tmp_path, content))
    buffer = loaded['message_hub']['log_scalars']['train/loss']
    assert isinstance(buffer, HistoryBuffer)
    assert buffer.statistics('mean') == 2
    assert [buffer.min(), buffer.max(), buffer.current()] == [1, 3, 1]
    assert loaded['message_hub']['runtime_info']['best'] == 1.5
    assert loaded['meta']['dataset_meta']['palette'].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_load_checkpoint_into_a_model(tmp_path):
    model = nn.Linear(2, 3)
    path = saved(tmp_path, dict(state_dict=nn.Linear(2, 3).state_dict(), meta={}))
    load_checkpoint(model, path)
    assert torch.equal(model.weight, torch.load(path)['state_dict']['weight'])


@pytest.mark.parametrize(
    ('poison', 'named'),
    [
        (Reduced(os.system, 'touch poisoned'), 'system, which is not on the safe list'),
        (Reduced(eval, "open('poisoned', 'w')"), 'eval, which is not on the safe list'),
        (
            Reduced(__import__, 'antigravity'),
            '__import__, which is not on the safe list',
        ),
        (argparse.Namespace(lr=1), 'argparse.Namespace, which is not on the safe list'),
        (Reduced(getattr, HistoryBuffer.mean, '__globals__'), "'__globals__'"),
        (Reduced(getattr, HistoryBuffer, '__init__'), "'__init__'"),
        (Reduced(getattr, HistoryBuffer, '_set_default_statistics'), '_set_default'),
        (Reduced(getattr, np.ndarray, 'tofile'), "'tofile'"),
        (Reduced(getattr, torch.Tensor, 'mean'), "'mean'"),
        (Reduced(HistoryBuffer.mean, 1), 'HistoryBuffer.mean'),
    ],
)
def test_poisoned_checkpoints_are_refused(tmp_path, monkeypatch, poison, named):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, dict(state_dict={}, extra=poison))
    with pytest.raises(pickle.UnpicklingError) as error:
        load(path)
    assert str(error.value).startswith(f'{path} is refused: ')
    assert '\n' not in str(error.value)
    assert named in str(error.value)
    assert not (tmp_path / 'poisoned').exists()


def test_refusal_does_not_hang_on_torchs_default(tmp_path, monkeypatch):
    """The environment variable that turns torch's check off does not turn ours off."""
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    path = saved(tmp_path, Reduced(eval, '1'))
    with pytest.raises(Exception, match=r'refused|weights_only'):
        load(path)


@pytest.mark.parametrize('kept', [0, 1, 300])
def test_truncated_file(tmp_path, kept):
    path = saved(tmp_path, dict(state_dict=nn.Linear(9, 9).state_dict()))
    with open(path, 'r+b') as file:
        file.truncate(kept)
    with pytest.raises((RuntimeError, pickle.UnpicklingError)) as error:
        load(path)
    assert str(error.value).startswith(path)


def test_other_failures_of_torch_keep_their_words(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('CUDA out of memory')

    path = saved(tmp_path, {})
    monkeypatch.setattr(torch, 'load', fail)
    with pytest.raises(RuntimeError, match=r'^CUDA out of memory$'):
        load(path)


def test_a_crafted_array_is_a_damaged_file(tmp_path):
    reconstruct, arguments, (version, shape, dtype, order, data) = np.ones(
        3
    ).__reduce__()
    crafted = Reduced(reconstruct, *arguments)
    crafted.call = (*crafted.call, (version, shape, dtype, order, data[:4]))
    path = saved(tmp_path, crafted)
    with pytest.raises((RuntimeError, pickle.UnpicklingError)) as error:
        load(path)
    assert str(error.value).startswith(path)


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint nowhere\.pth'):
        load('nowhere.pth')


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    saved(tmp_path, {'epoch': 3})
    monkeypatch.setenv('HOME', str(tmp_path))
    assert load('~/checkpoint.pth') == {'epoch': 3}


@pytest.mark.parametrize(
    'name', ['open-mmlab://resnet101_v1c', 'https://example.invalid/resnet101.pth']
)
def test_no_network(monkeypatch, tmp_path, name):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError('Name or service not known')

    monkeypatch.setattr('torch.hub.urlopen', refuse)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        load(name)
    message = str(error.value)
    assert 'cannot be downloaded (Name or service not known)' in message
    assert 'Copy resnet101' in message
    assert str(tmp_path) in message
    assert 'model.pretrained=FILE' in message


def test_a_downloaded_file_is_loaded_safely(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    cache = tmp_path / 'hub' / 'checkpoints'
    cache.mkdir(parents=True)
    url = 'https://example.invalid/weights.pth'
    torch.save({'state_dict': {}}, cache / 'weights.pth')
    assert load(url) == {'state_dict': {}}
    torch.save(Reduced(eval, '1'), cache / 'weights.pth')
    with pytest.raises(pickle.UnpicklingError, match=f'{url} is refused: it asks for'):
        load(url)
