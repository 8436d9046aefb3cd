"""Tables that say what becomes of every key of a released checkpoint.

A layout is written down once, as one table from its keys to ours, put together from the
pieces below. From it follow what to rename, reshape and drop, what is missing, and how
near an unknown checkpoint comes. Nothing here reads or writes files.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor


class Entry(NamedTuple):
    """What becomes of one released key.

    Attributes:
        new: Its name with us; None drops it.
        reshape: Makes our tensor from the released one; None takes it as it is.
        why: Why it is dropped.
        optional: Whether a checkpoint may lack it.
    """

    new: str | None
    reshape: Callable[[Tensor], Tensor] | None = None
    why: str = ''
    optional: bool = False


Table = dict[str, Entry]

STAGES = ('layer1', 'layer2', 'layer3', 'layer4')


class Layout(NamedTuple):
    """A kind of released checkpoint.

    Attributes:
        name: What it is, in words.
        table: All its keys, and what becomes of each.
        describe: Reads off the released tensors what a config has to say: plain values,
            for the meta data of the result. Raises ValueError if they contradict each
            other.
        usage: Says from that description, and from the name of the written file, how
            to use it.
    """

    name: str
    table: Table
    describe: Callable[[Mapping[str, Tensor]], dict]
    usage: Callable[[dict, str], str]


def same(*keys: str) -> Table:
    """Keys that keep their names."""
    return {key: Entry(key) for key in keys}


def weights(*layers: str) -> Table:
    """Weight and bias of layers that keep their names."""
    return same(*(f'{layer}.{leaf}' for layer in layers for leaf in ('weight', 'bias')))


def norm(old: str, new: str | None = None) -> Table:
    """A batch norm; very old checkpoints do not count its batches."""
    table = same('weight', 'bias', 'running_mean', 'running_var')
    table['num_batches_tracked'] = Entry('num_batches_tracked', optional=True)
    return under(f'{old}.', table, f'{old if new is None else new}.')


def under(old: str, table: Table, new: str | None = None) -> Table:
    """Puts a prefix before the keys of a table, ``new`` before their new names."""
    new = old if new is None else new
    return {
        old + key: entry if entry.new is None else entry._replace(new=new + entry.new)
        for key, entry in table.items()
    }


def joined(tables: Iterable[Table]) -> Table:
    """One table of several."""
    return {key: entry for table in tables for key, entry in table.items()}


def stages(
    blocks: Sequence[int],
    middle: Callable[[int, int], Table],
    names: Sequence[str] = STAGES,
) -> Table:
    """The stages of a bottleneck ResNet, with us ``layer1`` to ``layer4``.

    Args:
        blocks: Number of blocks in each stage.
        middle: Keys of a block's ``conv2`` and, where it is there, of ``bn2``; from
            the stage, counted from 1, and the block, counted from 0.
        names: Names of the stages in the checkpoint.
    """
    return joined(
        under(
            f'{name}.{block}.',
            _bottleneck(middle(stage, block), downsample=block == 0),
            f'{STAGES[stage - 1]}.{block}.',
        )
        for stage, (count, name) in enumerate(zip(blocks, names, strict=True), start=1)
        for block in range(count)
    )


def _bottleneck(middle: Table, downsample: bool) -> Table:
    table = {
        **same('conv1.weight'),
        **norm('bn1'),
        **middle,
        **same('conv3.weight'),
        **norm('bn3'),
    }
    if downsample:
        table |= {**same('downsample.0.weight'), **norm('downsample.1')}
    return table


def apply_table(table: Table, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames and reshapes the tensors that the table keeps, in their order.

    Args:
        table: Has an entry for every key.
        state_dict: The released tensors.

    Returns:
        Tensors with a storage each, however the released ones shared theirs.
    """
    converted = {}
    for key, tensor in state_dict.items():
        entry = table[key]
        if entry.new is not None:
            tensor = tensor.detach().clone()
            converted[entry.new] = entry.reshape(tensor) if entry.reshape else tensor
    return converted
