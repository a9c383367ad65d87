"""A sampler for Optuna studies whose costs are known before a trial is run; knows nothing of pared."""

from .candidates import Exhausted
from .front_sampler import FrontSampler

__all__ = ["Exhausted", "FrontSampler"]
