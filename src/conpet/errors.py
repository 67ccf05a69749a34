"""The errors a user can meet. Each says the problem, what was given, what is allowed, what next."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ConpetError(Exception):
    """Base of all errors that the user can mend; the command line turns it into exit code 2."""


class ConfigError(ConpetError):
    """A configuration, option or combination of options that has no meaning."""


class DataError(ConpetError):
    """A data file or stream that cannot be used as it is."""


class RoutingError(ConpetError):
    """Routing that names unknown adapters or has the wrong shape."""


class CheckpointError(ConpetError):
    """A run folder, adapter or checkpoint that is damaged, foreign or does not fit."""


class MissingDependencyError(ConpetError):
    """An optional package or device that was asked for and is not there."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest allowed word, or an empty string."""
    match = get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""
