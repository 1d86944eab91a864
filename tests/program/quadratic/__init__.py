"""A workload of a test: gradient descent on a parabola, whose every step is known. Copied beside the others it is one of them."""

from meanstep.program.reproduce.study import Kind

KIND = Kind(
    __name__,
    commands=(("quadratic", "Gradient descent on a parabola.", "Descend"),),
    studies=("quadratic",),
    needs={"model": ("set", "seed", "id", "value")},
    flags={"betas": "--betas"},
    own={"state": ("*.json",)},
)
