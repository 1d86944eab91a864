"""From a run's folder to samples: load a checkpoint, draw, decode, show."""

from meanstep.program.sampling.model import Model, load

__all__ = ["Model", "load"]
