"""The compiled kernels, by ctypes. The structures mirror pass.h field by field.

Installing this package compiles them where there is a C++ compiler; without one they are missing, which `find` says.
No torch here: numbers go in as addresses, and whoever passes one keeps alive what it points to.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, ClassVar, Final

from minedraft.errors import InternalError

NAME: Final = "_kernels"
NOT_COMPILED: Final = "they were not compiled when this package was installed: install a C++ compiler, then it again"
MOST_HEAD_DIM: Final = 256  # MOST_DIM in common.h

Fields = list[tuple[str, Any]]


class Matrix(Structure):
    """A weight matrix, row by row."""

    _fields_: ClassVar[Fields] = [
        ("weights", c_void_p), ("scales", c_void_p), ("bias", c_void_p), ("rows", c_int64), ("columns", c_int64),
    ]  # fmt: skip


class Layer(Structure):
    """One decoder layer."""

    _fields_: ClassVar[Fields] = [
        ("qkv", Matrix), ("out", Matrix), ("gate_up", Matrix), ("down", Matrix),
        ("before_attention", c_void_p), ("before_mlp", c_void_p),
    ]  # fmt: skip


class Model(Structure):
    """A whole model."""

    _fields_: ClassVar[Fields] = [
        ("layers", c_int64), ("hidden", c_int64), ("heads", c_int64), ("kv_heads", c_int64), ("head_dim", c_int64),
        ("intermediate", c_int64), ("eps", c_float), ("scaling", c_float), ("layer", POINTER(Layer)),
        ("embed", c_void_p), ("norm", c_void_p), ("head", Matrix), ("cos", c_void_p), ("sin", c_void_p),
    ]  # fmt: skip


class Batch(Structure):
    """One pass."""

    _fields_: ClassVar[Fields] = [
        ("tokens", c_int64), ("sequences", c_int64), ("rows", c_int64), ("token_ids", c_void_p),
        ("positions", c_void_p), ("slots", c_void_p), ("query_lens", c_void_p), ("kv_slots", c_void_p),
        ("context_lens", c_void_p), ("logit_rows", c_void_p), ("keys", c_void_p), ("values", c_void_p),
        ("logits", c_void_p),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """An instruction set that the kernels were compiled for and this CPU has."""

    name: str  # avx512_bf16, avx512, avx2 or plain
    width: int  # floats in a vector
    panel: int = 0  # rows in a panel of bfloat16 weights, 0: they lie row by row

    @property
    def block(self) -> int:
        """Columns of matrices and dimensions of heads are multiples of this; those of 8-bit matrices of twice this."""
        return 2 * self.width


class Kernels:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when it cannot be loaded."""
        self._library = library = ctypes.CDLL(str(path))
        library.md_kind.restype, library.md_kind.argtypes = c_char_p, [c_int32]
        library.md_width.restype, library.md_width.argtypes = c_int32, [c_char_p]
        library.md_panel.restype, library.md_panel.argtypes = c_int32, [c_char_p]
        library.md_open.restype, library.md_open.argtypes = c_void_p, [POINTER(Model), c_char_p, c_int32]
        library.md_run.restype, library.md_run.argtypes = c_int32, [c_void_p, POINTER(Batch)]
        library.md_close.restype, library.md_close.argtypes = None, [c_void_p]
        names: list[bytes] = []
        while name := library.md_kind(len(names)):
            names.append(name)
        self.kinds: tuple[Kind, ...] = tuple(
            Kind(name.decode(), library.md_width(name), library.md_panel(name)) for name in names
        )
        """From the widest to the narrowest."""

    def open(self, model: Model, kind: Kind, threads: int) -> Runner:
        """The model on `threads` threads, the caller's included. Raises InternalError without memory for it."""
        runner = self._library.md_open(ctypes.byref(model), kind.name.encode(), threads)
        if not runner:
            raise InternalError("there is no memory, or no thread, for the native kernels")
        return Runner(self._library, runner)


class Runner:
    """A model that is ready to run. For one thread at a time; its threads end with `close`."""

    def __init__(self, library: ctypes.CDLL, runner: int) -> None:
        self._library = library
        self._runner: int | None = runner

    def run(self, batch: Batch) -> None:
        """Compute a pass; other Python threads run meanwhile. Raises InternalError without memory for it."""
        if self._runner is None:
            raise InternalError("the native kernels of this model are closed")
        if not self._library.md_run(self._runner, ctypes.byref(batch)):
            raise InternalError("there is no memory for a pass of this many tokens")

    def close(self) -> None:
        """End its threads. Safe to call twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self._library.md_close(runner)

    def __del__(self) -> None:
        self.close()


def find() -> tuple[Kernels | None, str]:
    """The kernels, or None and the reason."""
    folder = Path(__file__).parent
    path = next((path for suffix in EXTENSION_SUFFIXES if (path := folder / (NAME + suffix)).is_file()), None)
    if path is None:
        return None, NOT_COMPILED
    try:
        return Kernels(path), ""
    except OSError as error:
        return None, f"they cannot be loaded: {error}"
