"""Classes made at run time from a host's class, which can be pickled.

Pickle finds a class by its name in a module, where such a class is not. So it is told
what the class is made of, and makes it again where it loads.
"""

import copyreg
import functools
from abc import ABCMeta


class _Derived(ABCMeta):
    """The type of these classes; ABCMeta is that of mmengine's modules."""

    made_of: tuple[type, ...]


@functools.cache
def derived(*classes: type) -> type:
    """Returns the class that inherits from ``classes``, the same for the same ones.

    Args:
        *classes: Mixins, in their order, and last the class that they change. It gives
            the name and the docstring.
    """
    last = classes[-1]
    members = dict(made_of=classes, __doc__=last.__doc__, __module__=last.__module__)
    return _Derived(last.__name__, classes, members)


copyreg.pickle(_Derived, lambda made: (derived, made.made_of))
