"""What happens during a run, told to whoever wants to know: a file, the console, trackers."""

from conpet.events.base import Observer
from conpet.events.console import Console
from conpet.events.jsonl import Events, read_events
from conpet.events.observers import Observers
from conpet.events.trackers import TrackerObserver

__all__ = [
    "Console",
    "Events",
    "Observer",
    "Observers",
    "TrackerObserver",
    "read_events",
]
