"""`--to onnx`: model.onnx by torch.onnx's exporter, and with --field the average velocity u(z, r, t, y) as field.onnx."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meanstep.program.console import UserError, first_line
from meanstep.program.export.checks import FIRST, Difference, compared
from meanstep.program.export.subject import Subject
from meanstep.program.export.targets import Target

OPSET, LARGEST, SMALL, SHOWN = 20, 2**31 - 1, 1024, 8
"""Version of operators; bytes that one file may have; entries below which weights are not worth rounding; labels of an example."""
Files = dict[str, bytes]
USE = """\
```python
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
{names} = session.run(None, {{{inputs}}})
```
"""


def files(subject: Subject, target: Target) -> tuple[Files, Difference, str]:
    """The files, their difference to PyTorch, and how they are used."""
    seeds = range(subject.choice.batch or 2)
    given = {subject.first: subject.noise(seeds), **subject.given(seeds)}
    model = graph(subject.whole(), given, subject.outputs, subject)
    found = compared(subject, running(model, tuple(given)), target.bound, "model.onnx")
    extra = {"field.onnx": field(subject, target)} if subject.choice.field else {}
    names = ", ".join(subject.outputs) + ("," if len(subject.outputs) == 1 else "")
    inputs = ", ".join(f'"{name}": {example}' for name, example in examples(subject, tuple(given)).items())
    return {"model.onnx": model, **extra}, found, USE.format(names=names, inputs=inputs)


def examples(subject: Subject, names: tuple[str, ...]) -> dict[str, str]:
    """The inputs in Python's words: noise, labels and scales that are drawn, and rows of the data by their names."""
    rows, shape = subject.choice.batch or 16, ", ".join(map(str, subject.shape))
    found = {name: name.replace(".", "_") for name in names}
    if subject.start is None:
        found[subject.first] = f'np.random.randn({rows}, {shape}).astype("float32")'
    if subject.labelled:
        among = subject.among[:SHOWN]
        some = f"np.array({list(among)})[np.arange({rows}) % {len(among)}]"
        found["label"] = f"np.arange({rows}) % {len(subject.classes)}" if subject.every else some
    if subject.scales:
        found["guidance"] = f'np.full({rows}, {subject.scales[1]:g}, "float32")'
    return found


def field(subject: Subject, target: Target) -> bytes:
    """The graph of `u(z, r, t, y)`, compared at times that were not traced."""
    velocity = subject.apart(subject.field)
    model = graph(velocity, times(subject, range(subject.choice.batch or 2)), ("velocity",), subject)
    asked = times(subject, range(FIRST, FIRST + (subject.choice.batch or 5)))
    with torch.no_grad():
        ours = velocity(*asked.values())
    theirs = session(model).run(None, {name: x.numpy() for name, x in asked.items()})[0]
    found = float(np.abs(theirs - ours.numpy()).max()) / (float(ours.std(correction=0)) or 1.0)
    if not found <= target.bound:
        raise UserError(
            f"field.onnx differs from PyTorch by {found:.3g} of the spread (the bound is {target.bound:g}): nothing was written"
        )
    return model


def times(subject: Subject, seeds: Sequence[int]) -> dict[str, Tensor]:
    """Inputs of a field: noise of these seeds, times that differ from row to row, and labels or the parts of a condition."""
    t = 0.5 + torch.arange(1, len(seeds) + 1) / (2 * len(seeds) + 1)
    given = {"y" if name == "label" else name: x for name, x in subject.given(seeds).items()}
    return {"z": subject.seen(seeds), "r": t / 3, "t": t, **given}


def graph(
    net: nn.Module,
    inputs: dict[str, Tensor],
    outputs: tuple[str, ...],
    subject: Subject,
    change: Callable[[Any], Any] = lambda model: model,
) -> bytes:
    """A module as the bytes of an ONNX file that any runtime reads; `UserError` names the operation that it cannot take.

    `change`: what is done to the model before it is written.
    """
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    free: Any = tuple({0: batch} for _ in inputs)
    free = None if subject.choice.batch else (free,) if subject.several else free
    names: dict[str, Any] = {"input_names": list(inputs), "output_names": list(outputs), "opset_version": OPSET}
    try:
        with _silent(), torch.no_grad():
            program = torch.onnx.export(net, tuple(inputs.values()), dynamo=True, dynamic_shapes=free, verbose=False, **names)
    except Exception as error:  # the exporter raises dozens of kinds
        raise UserError(f"--to onnx: {reason(error)}; --to torch may take it") from error
    assert program is not None
    return slim(change(program.model_proto), subject.choice.half)


def reason(error: BaseException) -> str:
    """The exporter's complaint in one line, the first of its chain, which names the operation."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"the network cannot be exported: {first_line(error)}"


@contextlib.contextmanager
def _silent() -> Any:
    """The exporter speaks of itself on every channel that there is."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def slim(model: Any, half: bool) -> bytes:
    """The file without what only the exporter reads; `half`: large weights are stored in half precision and cast when it is opened."""
    del model.metadata_props[:], model.graph.value_info[:], model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        if hasattr(part, "doc_string"):
            part.doc_string = ""
    if half:
        _round(model.graph)
    if model.ByteSize() > LARGEST:
        raise UserError(
            f"--to onnx writes one file, of at most 2 GiB, and this is {model.ByteSize() / 2**30:.1f} GiB: --half, or --to torch"
        )
    return bytes(model.SerializeToString())


def _round(found: Any) -> None:
    import onnx

    casts = []
    for tensor in found.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        if not np.array_equal(values.astype(np.float16).astype(np.float32), values):
            continue  # a constant of the graph, no weight: those are rounded already
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *found.node]
    del found.node[:]
    found.node.extend(nodes)


def session(model: bytes) -> Any:
    """ONNX Runtime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def running(model: bytes, names: tuple[str, ...]) -> Any:
    """From noise and labels to outputs, by ONNX Runtime."""
    opened = session(model)
    return lambda *given: opened.run(None, {name: x.numpy() for name, x in zip(names, given, strict=True)})
