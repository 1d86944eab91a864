"""Run the attention kernel under Triton's interpreter, which is chosen before triton is imported and so needs a process of its own.

    TRITON_INTERPRET=1 python interpreted.py CASES RESULTS

CASES holds a list of argument tuples of `kernel.attention`, RESULTS gets the list of its outputs.
"""

import sys

import numpy as np
import torch
from triton.runtime import interpreter

from meanstep.attention import kernel

FLOAT32 = interpreter.tl.float32


def widened(handle: interpreter.TensorHandle) -> interpreter.TensorHandle:
    if handle.dtype.scalar != interpreter.tl.bfloat16:
        return handle
    values = (handle.data.astype(np.uint32) << 16).view(np.float32)
    return interpreter.TensorHandle(values, FLOAT32)


def widen_products() -> None:
    """The interpreter keeps bfloat16 as the bits of uint16 and multiplies those: give its products float32 instead."""
    dot = interpreter.InterpreterBuilder.create_dot
    interpreter.InterpreterBuilder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.seterr(over="ignore")  # a score of minus 3e38 in units of the binary logarithm is minus infinity, on a device too
    widen_products()
    cases, results = sys.argv[1:]
    torch.save([kernel.attention(*case) for case in torch.load(cases)], results)
