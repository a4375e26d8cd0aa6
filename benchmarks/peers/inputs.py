"""What the peers are given: the target, prompts as token ids, and what they alone need, in one folder.

A peer is a script of this folder, run by an interpreter of its own, so it shares no code with the others:

    PYTHON benchmarks/peers/with_NAME.py --inputs FOLDER --threads N

It loads its models and writes {}. Then it reads lines of two numbers, requests in flight and a part of the prompts, and
answers each with a line of JSON: for each of its ways tokens_per_second, output_tokens and seconds over that part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import gguf_of, widened
from minedraft.cli.demo_model import DEMO, draft_path, model_path


def prepare(folder: Path, parts: Sequence[Sequence[str]], tokens: int) -> None:
    """Fill a folder: inputs.json, draft/, target-bf16.gguf, target-q4_1.gguf."""
    from transformers import AutoTokenizer

    target = Path(model_path(DEMO))
    factory: Any = AutoTokenizer
    tokenizer = factory.from_pretrained(target)
    ids = [
        [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
            )["input_ids"]
            for text in part
        ]
        for part in parts
    ]
    fields = {"target": str(target), "parts": ids, "end": tokenizer.eos_token_id, "tokens": tokens}
    (folder / "inputs.json").write_text(json.dumps(fields), encoding="utf-8")
    widened.widen(Path(draft_path(DEMO, DEMO)), target, folder / "draft")
    for kind in gguf_of.KINDS:
        gguf_of.write(target, folder / f"target-{kind}.gguf", kind)
