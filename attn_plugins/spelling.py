"""The name that was meant. Python alone."""

import difflib
from collections.abc import Iterable


def closest(name: object, names: Iterable[object]) -> str:
    """Returns ``, did you mean 'x'?`` if one of the names is much like ``name``."""
    found = difflib.get_close_matches(str(name), map(str, names), n=1)
    return f', did you mean {found[0]!r}?' if found else ''
