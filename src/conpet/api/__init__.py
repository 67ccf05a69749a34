"""The public Python interface: where the layers meet.

from conpet import fit, load, load_stream

model = fit(load_stream("banking77", preset="small"), out="runs/bank")
model.predict(["my card was eaten by the machine"])
"""

from conpet.api.model import ContinualModel
from conpet.api.runs import fit, load, run, stream_of
from conpet.backbones.loading import load_backbone
from conpet.streams import load_stream

__all__ = ["ContinualModel", "fit", "load", "load_backbone", "load_stream", "run", "stream_of"]
