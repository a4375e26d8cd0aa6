"""The engine's own needs. Run in a process of its own: the imports may fail, or crash."""

from __future__ import annotations

import time

from minedraft.cli.doctor.finding import Finding, Scope, not_here, ok


def check_engine(scope: Scope) -> list[Finding]:
    """Everything that a model service imports. What is missing raises, which is the finding."""
    began = time.perf_counter()
    import torch
    import transformers

    import minedraft.engine.build  # noqa: F401

    seconds = time.perf_counter() - began
    found = f"torch {torch.__version__} and transformers {transformers.__version__} in {seconds:.1f} s"
    return [
        ok("engine", "engine imports", found, seconds=seconds, torch=torch.__version__, threads=torch.get_num_threads())
    ]


def check_int8(scope: Scope) -> list[Finding]:
    """Whether draft models can have weights of 8 bits here."""
    import torch

    from minedraft.model.int8 import can_quantize

    name, title = "int8", "8-bit operators of the CPU"
    if can_quantize(torch.device("cpu")):
        return [ok(name, title, f"by {torch.backends.quantized.engine}", engine=torch.backends.quantized.engine)]
    mend = "draft models keep plain weights here, which is slower; a build of torch with fbgemm or onednn has them"
    return [not_here(name, title, "this build of torch lacks them", mend)]


def check_kernels(scope: Scope) -> list[Finding]:
    """Whether Llamas can be computed by the native kernels here."""
    from minedraft.native.binding import find

    name, title = "kernels", "CPU kernels"
    kernels, reason = find()
    if kernels is None:
        mend = (
            "install a C++ compiler (g++), then this package again; without them Llamas are computed by torch, slower"
        )
        return [not_here(name, title, reason, mend)]
    kinds = [kind.name for kind in kernels.kinds]
    return [ok(name, title, f"compiled, for {kinds[0]} here", kinds=kinds)]
