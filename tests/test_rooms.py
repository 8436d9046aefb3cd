"""Arrows go one way: which rooms of the package each room imports (docs: the house)."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'attn_plugins'
MM = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'}
DRAWING = {'numpy', 'matplotlib', 'cycler', 'cv2', 'PIL'}
INSIDE_MM = {'mm', 'modules', 'functional', 'registration', 'spelling', 'version'}

# What each room may import: rooms of the package, and other packages. `cli` is in none.
ROOMS = {
    '': {'registration', 'version'},
    '__main__': {'cli', 'mm.apis'},
    'registration': set(),
    'version': set(),
    'spelling': set(),
    'functional': set(),
    'modules': {'functional'},
    'ops': set(),
    'released': set(),
    'visualization': {'spelling'},
    'mm': set(),
    'mm.models': INSIDE_MM,
    'mm.engine': INSIDE_MM,
    'mm.datasets': {*INSIDE_MM, 'mm.engine'},
    'mm.apis': {*INSIDE_MM, 'mm.engine', 'mm.datasets', 'mm.models', 'visualization'},
    'cli': {'mm.apis', 'mm.datasets', 'mm.engine', 'mm.models', 'mm', 'ops'}
    | {'released', 'visualization', 'registration', 'version', 'spelling'},
}
OTHERS = {
    'functional': {'torch'},
    'modules': {'torch'},
    'ops': {'torch', 'torchvision'},
    'released': {'torch'},
    'visualization': {'torch', *DRAWING},
    'registration': set(),
    'version': set(),
    'spelling': set(),
    '': set(),
}


def room_of(module: str) -> str:
    """'attn_plugins.mm.apis.launch' is in 'mm.apis', 'attn_plugins.ops' in 'ops'."""
    _, *names = module.split('.')
    return '.'.join(names[: 2 if names[:1] == ['mm'] else 1])


def imports(file: Path) -> Iterator[str]:
    """Yields the dotted names that a file imports, anywhere in it."""
    package = ('attn_plugins', *file.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = '.'.join((*base, *filter(None, [node.module])))
            yield from (f'{module}.{alias.name}' for alias in node.names)


def files() -> Iterator[tuple[str, Path]]:
    for file in sorted(PACKAGE.rglob('*.py')):
        parts = file.relative_to(PACKAGE).with_suffix('').parts
        module = '.'.join(part for part in parts if part != '__init__')
        yield room_of(f'attn_plugins.{module}' if module else 'attn_plugins'), file


@pytest.mark.parametrize('room', ROOMS)
def test_a_room_imports_only_what_it_may(room):
    found = set()
    for own, file in files():
        for name in imports(file) if own == room else ():
            top = name.partition('.')[0]
            if top == 'attn_plugins':
                other = room_of(name)
                # A name of the package's own `__init__`, or a room that is a file.
                other = other if other in ROOMS else ''
                fits = other in {room, *ROOMS[room]}
            else:
                fits = room not in OTHERS or top in OTHERS[room]
                fits = fits or top in sys.stdlib_module_names
            if not fits:
                found.add(f'{file.relative_to(PACKAGE)} imports {name}')
    assert not found


def test_every_file_is_in_a_room_of_the_table():
    assert {room for room, _ in files()} == set(ROOMS)
