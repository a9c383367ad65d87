"""A value on its way to the workers: bytes to all that handle it before one with the code to read it does.

Such is the server of Ray Client, which would otherwise import the user's model.
"""

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import cloudpickle


@dataclass(frozen=True, slots=True)
class Parcel:
    """`buffers` (each (bytes,)) hold the arrays of the value: workers of a node share them without a copy."""

    body: bytes
    buffers: tuple[NDArray[np.uint8], ...]

    @classmethod
    def of(cls, value: object) -> "Parcel":
        buffers: list[pickle.PickleBuffer] = []
        body = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)  # type: ignore[no-untyped-call]
        return cls(body, tuple(np.asarray(buffer.raw()) for buffer in buffers))

    def opened(self) -> Any:
        return pickle.loads(self.body, buffers=self.buffers)
