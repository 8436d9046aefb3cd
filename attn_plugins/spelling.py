"""The name that was meant. Python alone."""

import difflib
from collections.abc import Iterable


def closest(name: object, names: Iterable[object]) -> str:
    """Returns ``, did you mean 'x'?`` if a name is much like ``name``, else a stop."""
    found = difflib.get_close_matches(str(name), map(str, names), n=1)
    return f', did you mean {found[0]!r}?' if found else '.'
