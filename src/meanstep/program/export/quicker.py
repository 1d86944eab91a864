"""A graph rewritten for WebAssembly, whose layer norms run number by number and whose additions of a bias are passes of their own.

Both rewritings keep the mathematics and change the rounding in the last bit. Knows no torch.
"""

from collections import Counter
from typing import Any

import numpy as np


def quicker(model: Any) -> Any:
    """The model, changed in place: a linear layer is one operation, a norm over the last axis is made of operations on four numbers."""
    import onnx

    shapes = _shapes(onnx.shape_inference.infer_shapes(model).graph)
    for change in (_linear, _normal):
        nodes = list(change(model.graph, shapes))
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    held = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(held)
    return model


def _shapes(graph: Any) -> dict[str, list[Any]]:
    """Sizes of every value that has some: numbers, and None where the size is free."""
    known = [*graph.value_info, *graph.input, *graph.output]
    return {v.name: [d.dim_value or None for d in v.type.tensor_type.shape.dim] for v in known}


def _linear(graph: Any, shapes: dict[str, list[Any]]) -> Any:
    """`MatMul` of rows by constant weights with the `Add` of a constant bias, as `Gemm` of all rows at once."""
    import onnx

    constant = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    adds = {name: node for node in graph.node if node.op_type == "Add" for name in node.input}
    dropped: set[str] = set()
    for node in graph.node:
        made, add = node.output[0], adds.get(node.output[0])
        if node.op_type == "Add" and made in dropped:
            continue
        bias = [name for name in add.input if name != made] if add else []
        sizes, weight = shapes.get(made, []), constant.get(node.input[1], []) if len(node.input) > 1 else []
        fits = node.op_type == "MatMul" and len(weight) == 2 and bias and constant.get(bias[0]) == weight[1:] and uses[made] == 1
        if not add or not fits or len(sizes) < 3 or None in sizes[1:]:
            yield node
            continue
        dropped.add(add.output[0])
        rows, back = (
            _constant(graph, f"{made}.rows", np.array([-1, weight[0]])),
            _constant(graph, f"{made}.back", np.array([-1, *sizes[1:]])),
        )
        yield onnx.helper.make_node("Reshape", [node.input[0], rows], [f"{made}.in"])
        yield onnx.helper.make_node("Gemm", [f"{made}.in", node.input[1], bias[0]], [f"{made}.out"])
        yield onnx.helper.make_node("Reshape", [f"{made}.out", back], [add.output[0]])


def _normal(graph: Any, shapes: dict[str, list[Any]]) -> Any:
    """`LayerNormalization` over the last axis as means, squares and one reciprocal; its square is a `Mul`, or runtimes fuse it again."""
    import onnx

    for node in graph.node:
        given = {entry.name: entry for entry in node.attribute}
        axis = given["axis"].i if "axis" in given else -1
        last = axis in (-1, len(shapes.get(node.input[0], [])) - 1) if node.input else False
        if node.op_type != "LayerNormalization" or not last or len([name for name in node.output if name]) > 1:
            yield node
            continue
        x, scale, bias = [*node.input, ""][:3]
        y = node.output[0]
        epsilon = _constant(graph, f"{y}.epsilon", np.float32(given["epsilon"].f if "epsilon" in given else 1e-5))
        axes = _constant(graph, f"{y}.axes", np.array([-1]))
        steps = [("ReduceMean", [x, axes], "mean"), ("Sub", [x, f"{y}.mean"], "centred"), ("Mul", [f"{y}.centred"] * 2, "squares")]
        steps += [("ReduceMean", [f"{y}.squares", axes], "variance"), ("Add", [f"{y}.variance", epsilon], "sum")]
        steps += [("Sqrt", [f"{y}.sum"], "deviation"), ("Reciprocal", [f"{y}.deviation"], "rate")]
        steps += [("Mul", [f"{y}.centred", f"{y}.rate"], "normal")]
        steps += [] if _is_one(graph, scale) else [("Mul", [f"{y}.{steps[-1][2]}", scale], "scaled")]
        steps += [("Add", [f"{y}.{steps[-1][2]}", bias], "shifted")] if bias else []
        for kind, names, made in steps[:-1]:
            yield onnx.helper.make_node(kind, names, [f"{y}.{made}"])
        yield onnx.helper.make_node(steps[-1][0], steps[-1][1], [y])


def _constant(graph: Any, name: str, value: Any) -> str:
    import onnx

    graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return name


def _is_one(graph: Any, name: str) -> bool:
    import onnx

    found = next((tensor for tensor in graph.initializer if tensor.name == name), None)
    return found is not None and bool((onnx.numpy_helper.to_array(found) == 1).all())
