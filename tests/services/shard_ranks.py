"""python -m tests.services.shard_ranks RANK RANKS PORT FOLDER: one of several ranks that load every model in a folder.

Each rank runs the same passes over its share. Rank 0 prints one line a model: a JSON object with its name, the
difference from the whole model and from stock attention over the shares, or the error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from minedraft.errors import MinedraftError
from minedraft.kv.store import KVStore
from minedraft.model import process_group
from minedraft.model.hf import HFModel
from minedraft.model.loader import load
from minedraft.model.parallel import ShardModel
from minedraft.model.ragged import RaggedBatch, Segment, assemble
from minedraft.model.selfcheck import check, relative_difference

CPU = torch.device("cpu")
PROMPTS = (list(range(10, 40)), [5, 6, 7])


def main() -> None:
    rank, ranks, port = map(int, sys.argv[1:4])
    torch.set_num_threads(1)
    process_group.join(process_group.find_store(port, ranks), rank, ranks, CPU, 60)
    for folder in sorted(Path(sys.argv[4]).iterdir()):
        line = json.dumps({"model": folder.name} | compared(folder, rank, ranks))
        if rank == 0:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    process_group.leave()


def compared(folder: Path, rank: int, ranks: int) -> dict[str, object]:
    try:
        shard = ShardModel(load(folder, ranks=ranks), ranks=ranks, model_id=folder.name)
        stock = check(shard)
        logits = [shard.forward(batch, store) for store in [shard.new_store(16, 4)] for batch in batches()]
        if rank != 0:
            return {}
        whole = HFModel(load(folder), model_id=folder.name)
        expected = [whole.forward(batch, store) for store in [new_store(whole)] for batch in batches()]
    except MinedraftError as error:
        return {"error": str(error)}
    worst = max(relative_difference(own, all_) for own, all_ in zip(logits, expected, strict=True))
    return {"whole": worst, "stock": stock, "kv_heads": shard.kv_heads}


def batches() -> list[RaggedBatch]:
    """Two sequences: most of each prompt, then the rest."""
    slots = [torch.arange(40).numpy(), torch.arange(44, 48).numpy()]
    first = [Segment(prompt[:-2], 0, own[: len(prompt) - 2], 1) for prompt, own in zip(PROMPTS, slots, strict=True)]
    rest = [
        Segment(prompt[-2:], len(prompt) - 2, own[: len(prompt)], 2) for prompt, own in zip(PROMPTS, slots, strict=True)
    ]
    return [assemble(first), assemble(rest)]


def new_store(model: HFModel) -> KVStore:
    return KVStore(
        model.num_layers, model.kv_heads, model.head_dim, num_blocks=16, block_size=4, dtype=model.dtype, device=CPU
    )


if __name__ == "__main__":
    main()
