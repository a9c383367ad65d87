"""One launch on the machine, and what it moves."""

from dataclasses import dataclass

BYTES = {"fp32": 4.0, "": 4.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}  # of one weight


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch: an operator with what is fused into it, at batch 1. Counts are of elements.

    `op` is conv (dense, k > 1), pw (1x1), dw (depthwise), gconv (grouped), fc (constant weights times
    one row), mm (several rows; `weights` is 0 where both operands are activations), elt, pool, data
    (moves elements), quant (crosses between int8 and float). `dtype` is empty where it is the file's.
    """

    op: str
    macs: int
    weights: int
    in_elems: int
    out_elems: int
    c_in: int
    c_out: int
    kernel: int
    groups: int
    dtype: str = ""

    @property
    def weight_bytes(self) -> float:
        """Bytes of constants that one inference reads, without scales and biases."""
        return self.weights * BYTES[self.dtype]

    @property
    def activation_bytes(self) -> float:
        """Bytes read and written; a `quant` kernel has 8 bits on one side and 32 on the other."""
        if self.op == "quant":
            return 5.0 * self.out_elems
        width = 4.0 if self.dtype == "int4" else BYTES[self.dtype]
        return (self.in_elems + self.out_elems) * width
