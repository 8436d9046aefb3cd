"""Mistakes that a user can put right: each ends a command with one line.

A message says what was expected, what came, and what to do.
"""


class UserError(ValueError):
    """The base of all of them; commands show its message without a stack trace."""


class LaunchError(UserError):
    """A mistake in the command or the config, found before anything was started."""


class ConfigError(UserError):
    """A config that asks for what does not exist, or contradicts itself."""


class DataError(UserError):
    """Data that no model can learn from."""


class BrokenCheckpointError(UserError, RuntimeError):
    """A file that is damaged, incomplete, or no checkpoint at all."""


class WriteError(UserError, OSError):
    """A file could not be written; what was there before still is."""
