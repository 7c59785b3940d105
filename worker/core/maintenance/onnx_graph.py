"""The parts of an ONNX model as bytes: tensors, nodes, inputs, outputs, the model around them.

Field numbers: onnx/onnx.proto of ONNX 1.15 (IR version 9), the first with `ai.onnx.ml` 5, whose trees hold doubles.
onnxruntime has these trees since 1.21 (1.20 answers NOT_IMPLEMENTED).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.core.maintenance.protobuf_wire import integer, message, packed, text

IR_VERSION = 9
OPSET = 20
OPSET_ML = 5
DOMAIN_ML = "ai.onnx.ml"

_DOUBLE = 11
_TENSOR_TYPES = {"<f8": _DOUBLE, "|u1": 2, "<i8": 7}
_INT, _TENSOR, _INTS = 2, 4, 7
"""Types of an attribute."""

Attribute = int | Sequence[int] | NDArray[np.float64] | NDArray[np.uint8]


def tensor(field: int, values: NDArray[np.float64] | NDArray[np.int64] | NDArray[np.uint8], name: str = "") -> bytes:
    """Return an array as a TensorProto, little-endian."""
    plain = np.ascontiguousarray(values)
    plain = plain.astype(plain.dtype.newbyteorder("<"))
    dims = packed(1, plain.shape) if plain.shape else b""
    kind = integer(2, _TENSOR_TYPES[plain.dtype.str])
    return message(field, dims, kind, text(8, name) if name else b"", message(9, plain.tobytes()))


def node(
    operator: str,
    inputs: Sequence[str],
    output: str,
    attributes: Mapping[str, Attribute] | None = None,
    domain: str = "",
) -> bytes:
    """Return one operation of a graph."""
    return message(
        1,
        *(text(1, name) for name in inputs),
        text(2, output),
        text(4, operator),
        *(_attribute(name, value) for name, value in (attributes or {}).items()),
        text(7, domain) if domain else b"",
    )


def constant(name: str, values: NDArray[np.float64]) -> bytes:
    """Return a tensor that a graph carries with it."""
    return tensor(5, values, name)


def model_bytes(
    nodes: Sequence[bytes],
    constants: Sequence[bytes],
    output: str,
    shape: tuple[int, int],
    properties: Mapping[str, str],
) -> bytes:
    """Return a whole model: `rows` (n x shape[0], double) in, `output` (n x shape[1], double) out."""
    columns, values = shape
    graph = message(
        7,
        *nodes,
        text(2, "modelvigil"),
        *constants,
        _value(11, "rows", columns),
        _value(12, output, values),
    )
    opsets = (message(8, text(1, ""), integer(2, OPSET)), message(8, text(1, DOMAIN_ML), integer(2, OPSET_ML)))
    entries = (message(14, text(1, key), text(2, value)) for key, value in properties.items())
    return b"".join((integer(1, IR_VERSION), text(2, "modelvigil"), graph, *opsets, *entries))


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, int):
        body = integer(3, value), integer(20, _INT)
    elif isinstance(value, np.ndarray):
        body = tensor(5, value), integer(20, _TENSOR)
    else:
        body = packed(8, value), integer(20, _INTS)
    return message(5, text(1, name), *body)


def _value(field: int, name: str, columns: int) -> bytes:
    """Return the type of an input or output: doubles, any number of rows."""
    shape = message(2, message(1, text(2, "n")), message(1, integer(1, columns)))
    return message(field, text(1, name), message(2, message(1, integer(1, _DOUBLE), shape)))
