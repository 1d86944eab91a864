"""Adapters that make fields of networks with another argument order or parameterisation."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from meanstep.paths import linear
from meanstep.shapes import over
from meanstep.types import Field
from meanstep.values import like

ROLES = ("z", "r", "t", "gap", "y")


class Adapted(nn.Module):
    """A module or function behind the signature `(z, r, t, y)`; made by `as_field`. Arguments and errors are those of `as_field`."""

    def __init__(
        self,
        net: Callable[..., Any],
        order: Sequence[str],
        names: Mapping[str, str],
        output: Callable[[Any], Tensor] | None,
        head: Callable[[Any], Tensor] | None,
    ) -> None:
        super().__init__()
        for role in (*order, *names.values()):
            if role not in ROLES:
                raise ValueError(f"an argument is one of {', '.join(ROLES)}, got {role!r}")
        if "z" not in (*order, *names.values()):
            raise ValueError(f"the network must be given z, got order={tuple(order)!r} and names={dict(names)!r}")
        self.net, self.order, self.names, self.output, self._head = net, tuple(order), dict(names), output, head

    def _call(self, z: Tensor, r: Tensor, t: Tensor, y: Any) -> Any:
        given = {"z": z, "r": r, "t": t, "gap": t - r, "y": y}
        return self.net(*(given[role] for role in self.order), **{name: given[role] for name, role in self.names.items()})

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity `[*B, *E]`."""
        out = self._call(z, r, t, y)
        return self.output(out) if self.output else out

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def with_head(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> tuple[Tensor, Tensor]:
        """Both velocities of one call; the network must have a head."""
        out, read = self._call(z, r, t, y), self._head
        assert read is not None
        return self.output(out) if self.output else out, read(out)

    @property
    def head(self) -> Callable[..., Tensor] | None:
        """The auxiliary velocity `(z, r, t, y) -> v`, if the network has one."""
        read = self._head
        return None if read is None else lambda z, r, t, y=None: read(self._call(z, r, t, y))


def as_field(
    net: Callable[..., Any],
    order: Sequence[str] = ("z", "r", "t"),
    names: Mapping[str, str] | None = None,
    *,
    output: Callable[[Any], Tensor] | None = None,
    head: Callable[[Any], Tensor] | None = None,
) -> Adapted:
    """Make a field `(z, r, t, y) -> u` of a network with other arguments.

    - `order`: its positional arguments, each one of `z`, `r`, `t`, `gap` (which is `t - r`) and `y`; `ValueError` for another name.
    - `names`: its keyword arguments, `{its name: ours}`.
    - `output`, `head`: functions that pick the average velocity and an auxiliary velocity from what it returns.

        as_field(net, ("z", "t", "gap"))
        as_field(unet, ("z",), {"timestep": "t", "timestep_r": "r", "class_labels": "y"}, output=lambda o: o.sample)
    """
    return Adapted(net, order, names or {}, output, head)


def towards(x: Tensor, z: Tensor, t: Tensor, floor: float) -> Tensor:
    """The velocity `(z - X) / max(t, floor)` of predicted data `X` `[*B, *E]`, eq. (32)."""
    return (z - x) / over(t.clamp(min=floor), z)


def _whole(x: Any, z: Tensor) -> Any:
    """The predicted data, or `TypeError` or `ValueError` for what is no tensor of the samples' shape."""
    if not hasattr(type(x), "__torch_function__"):  # a tensor, or one that carries a tangent
        raise TypeError(f"the network returned a {type(x).__name__} for predicted data, not a tensor")
    if x.shape != z.shape:
        raise ValueError(f"the network returned predicted data of shape {tuple(x.shape)} for samples of shape {tuple(z.shape)}")
    return x


class DataPrediction(nn.Module):
    """Makes a field of a network that predicts data `X`: `u = (z - X) / max(t, floor)`, eq. (32), also for its head; arXiv 2601.22158.

    `net`: returns predicted data `[*B, *E]`; `floor`: a time in (0, 1], `ValueError` otherwise; 0.05. On the linear path only: the loss
    refuses another. `DiT(data_floor=)` does this itself.
    """

    def __init__(self, net: Field, floor: float = 0.05) -> None:
        super().__init__()
        if not 0 < floor <= 1:
            raise ValueError(f"floor is a time in (0, 1], got {floor:g}")
        self.net, self.floor, self.path = net, floor, linear

    def _velocity(self, predict: Field, z: Tensor, r: Tensor, t: Tensor, y: Any) -> Tensor:
        return towards(_whole(predict(z, r, t, y), z), z, t, self.floor)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity `[*B, *E]`."""
        return self._velocity(self.net, z, r, t, y)

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    @property
    def with_head(self) -> Callable[..., tuple[Tensor, Tensor]] | None:
        """Both velocities in one pass, if the network offers it."""
        both = getattr(self.net, "with_head", None)
        if both is None:
            return None

        def velocities(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> tuple[Tensor, Tensor]:
            first, second = both(z, r, t, y)
            return towards(_whole(first, z), z, t, self.floor), towards(_whole(second, z), z, t, self.floor)

        return velocities

    @property
    def head(self) -> Callable[..., Tensor] | None:
        """The velocity of the network's second data prediction, if it has one."""
        predict = getattr(self.net, "head", None)
        return None if predict is None else lambda z, r, t, y=None: self._velocity(predict, z, r, t, y)


class Scaled(nn.Module):
    """Multiplies the output of a field `net` by the guidance scale `omega` of its `Condition`, eq. (30); TVM, arXiv 2511.19797."""

    def __init__(self, net: Field) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity `[*B, *E]`; `TypeError` if the condition has no scale."""
        if not hasattr(y, "omega"):
            raise TypeError(
                f"a Scaled field is given a Condition with a guidance scale, got {type(y).__name__}: pass guidance= to the recipe"
            )
        return over(y.omega, z) * self.net(z, r, t, y)

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class Decoupled(nn.Module):
    """Makes an average velocity of a flow-matching network: its first `split` blocks get `t`, the others and the last layer `r`, eq. (33).

    There are no new weights, and `u(z, t, t)` is the original network. By default 5 of 7 blocks get `t`, 20 of 28 as published. `net` has
    `embed(t, y) -> c`, `stem(z) -> h`, `blocks` (each `(h, c) -> h`) and `final(h, c) -> u`. `DiT(split=)` does this itself. Source:
    arXiv 2510.24474. `TypeError` for a network without these parts, `ValueError` for a `split` that is none of their numbers.
    """

    def __init__(self, net: nn.Module, split: int | None = None) -> None:
        super().__init__()
        missing = [name for name in ("embed", "stem", "blocks", "final") if not hasattr(net, name)]
        if missing:
            remedy = "build it with DiT(split=...), which does this itself" if hasattr(net, "split") else "give it these parts"
            raise TypeError(f"{type(net).__name__} cannot be decoupled: it lacks {', '.join(missing)}; {remedy}")
        depth = len(net.blocks)  # type: ignore[arg-type]
        self.net: Any = net
        self.split = round(depth * 5 / 7) if split is None else split
        if not 0 <= self.split <= depth:
            raise ValueError(f"split is a number of blocks in [0, {depth}], got {self.split}")

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity `[*B, *E]`."""
        early, late, h = self.net.embed(t, y), self.net.embed(r, y), self.net.stem(z)
        for k, block in enumerate(self.net.blocks):
            h = block(h, early if k < self.split else late)
        out: Tensor = self.net.final(h, late)
        return out

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
