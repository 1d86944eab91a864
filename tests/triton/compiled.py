"""Compile the attention kernel for a device that need not be there, through Triton's own path up to the launch.

    python compiled.py CAPABILITY HEAD DTYPE [MASKED]

Prints the bytes of shared memory. What the interpreter accepts and the compiler does not, such as an annotation, fails here.
"""

import re
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from meanstep.attention import kernel


class Absent:
    """What the compiler asks of a driver, about a device of some compute capability."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


class Unlaunched:
    """A kernel that is compiled instead of launched."""

    def __init__(self, function: Any) -> None:
        self.function, self.found = function, None

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def run(*args: Any, **options: Any) -> None:
            self.found = self.function.warmup(*args, grid=grid, **options)

        return run


if __name__ == "__main__":
    capability, head, dtype, *masked = sys.argv[1:]
    driver.set_active(Absent(int(capability)))
    kernel._kernel = Unlaunched(kernel._kernel)
    inputs = [torch.zeros(1, 200, 2, int(head), dtype=getattr(torch, dtype)).transpose(1, 2) for _ in range(6)]
    kernel.attention(*inputs, torch.zeros(200, 200) if masked else None, bool(masked), 0.1)
    loads = re.findall(r"cp\.async\.c[ag]\.shared\.global|ld\.global\.v4", kernel._kernel.found.asm["ptx"])
    assert loads, "keys and values are not loaded 16 bytes at a time"
    print(kernel._kernel.found.metadata.shared)
