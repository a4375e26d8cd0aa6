"""Draft models that know only the frequent tokens: the same logits for those, none for others, under target ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minedraft.engine.opening import open_model
from minedraft.errors import SetupError
from minedraft.model.draft_vocabulary import known_tokens, to_map, widen
from minedraft.model.loader import load
from tests.models import tiny_llama

KNOWN = torch.tensor([0, 3, 65, 66, 90, 200, 299])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model's copy whose output layer has the rows of KNOWN only."""
    whole = tiny_llama(tmp_path / "whole", dtype="float32")
    made = tiny_llama(tmp_path / "made", dtype="float32")
    tensors = load_file(whole / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][KNOWN].contiguous()
    rewrite(made, tensors | {"d2t": to_map(KNOWN)}, draft_vocab_size=len(KNOWN))
    return made


def rewrite(folder: Path, tensors: dict[str, torch.Tensor], **settings: object) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))


@torch.inference_mode()
def test_logits_are_those_of_the_whole_model(folder: Path) -> None:
    token_ids = torch.tensor([[70, 299, 7, 150]])  # the input may be any token
    whole = load(folder.with_name("whole"))(input_ids=token_ids).logits[0]
    module = load(folder)
    narrow, known = module(input_ids=token_ids).logits[0], known_tokens(module)
    assert known is not None
    assert known.tolist() == KNOWN.tolist()
    torch.testing.assert_close(narrow, whole[:, KNOWN])
    wide = widen(narrow, known, 300)
    torch.testing.assert_close(wide[:, KNOWN], narrow)
    others = [token for token in range(300) if token not in KNOWN.tolist()]
    assert bool((wide[:, others] == -torch.inf).all())


def test_it_is_served_like_any_other(folder: Path) -> None:
    """Packed for the CPU, and through the self-check at start-up."""
    model, tokenizer = open_model(str(folder))
    assert model.vocab_size == 300
    assert model.logit_token_ids is not None
    assert model.logit_token_ids.tolist() == KNOWN.tolist()
    assert model.tokenizer_fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_dtypes(folder: Path, dtype: str) -> None:
    assert load(folder, dtype=dtype).dtype == getattr(torch, dtype)


@pytest.mark.parametrize(
    ("offsets", "words"),
    [
        (None, "d2t must be int64 [7]"),
        (to_map(KNOWN)[:-1], "d2t must be int64 [7]"),
        (to_map(KNOWN).int(), "d2t must be int64 [7]"),
        (to_map(KNOWN) + 1, "rising token ids below 300"),
        (to_map(KNOWN).flip(0), "rising token ids below 300"),
    ],
)
def test_a_wrong_map_is_refused(folder: Path, offsets: torch.Tensor | None, words: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["d2t"]
    rewrite(folder, tensors | ({} if offsets is None else {"d2t": offsets.contiguous()}))
    with pytest.raises(SetupError) as caught:
        load(folder)
    assert words in str(caught.value)


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    rewrite(folder, load_file(folder / "model.safetensors"), intermediate_size=48)
    with pytest.raises(SetupError, match="do not fit"):
        load(folder)
