"""Tokenizers of model folders, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from minedraft.errors import SetupError
from minedraft.model.byte_tokenizer import BOS_ID, EOS_ID, EOS_TOKEN, byte_tokenizer
from minedraft.model.tokenizer import fingerprint, read_eos_token_ids, read_tokenizer
from tests.models import write_byte_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_byte_tokenizer(tmp_path, 300)
    return tmp_path


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def test_read_tokenizer(folder: Path) -> None:
    files = read_tokenizer(folder)
    assert files == byte_tokenizer(300)
    assert files.special_tokens == {"bos_token": "<|start|>", "eos_token": "<|end|>"}


def test_template_in_the_settings(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert read_tokenizer(folder).chat_template == ""
    write(folder / "tokenizer_config.json", {"chat_template": "one"})
    assert read_tokenizer(folder).chat_template == "one"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "two"}]
    write(folder / "tokenizer_config.json", {"chat_template": named})
    assert read_tokenizer(folder).chat_template == "two"
    (folder / "chat_template.jinja").write_text("three")
    assert read_tokenizer(folder).chat_template == "three"


def test_special_tokens_in_all_spellings(folder: Path) -> None:
    write(folder / "tokenizer_config.json", {"eos_token": {"content": "<|end|>"}, "pad_token": None})
    write(folder / "special_tokens_map.json", {"pad_token": "<pad>", "eos_token": "other"})
    assert read_tokenizer(folder).special_tokens == {"eos_token": "<|end|>", "pad_token": "<pad>"}


def test_end_of_text_is_the_union_of_all_sources(folder: Path) -> None:
    assert read_eos_token_ids(folder) == (EOS_ID,)
    write(folder / "config.json", {"eos_token_id": 7})
    assert read_eos_token_ids(folder) == (EOS_ID, 7)
    write(folder / "generation_config.json", {"eos_token_id": [9, 7]})
    assert read_eos_token_ids(folder) == (EOS_ID, 7, 9)
    write(folder / "tokenizer_config.json", {"eos_token": "not in the vocabulary"})
    assert read_eos_token_ids(folder) == (7, 9)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no tokenizer.json: .*save_pretrained"):
        read_tokenizer(tmp_path)
    assert read_eos_token_ids(tmp_path) == ()


@pytest.mark.parametrize("content", ["{}", "nonsense", ""])
def test_damaged_tokenizer(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(SetupError, match="is not a tokenizer that the tokenizers package reads"):
        read_tokenizer(folder)


@pytest.mark.parametrize(("content", "problem"), [("{", "is not JSON"), ("3", "does not hold a JSON object")])
def test_damaged_settings(folder: Path, content: str, problem: str) -> None:
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(SetupError, match=problem):
        read_tokenizer(folder)


def test_fingerprint_is_of_the_vocabulary() -> None:
    first = Tokenizer.from_buffer(byte_tokenizer(300).tokenizer_json)
    assert fingerprint(first) == byte_tokenizer(300).fingerprint
    assert fingerprint(first) != byte_tokenizer(301).fingerprint
    # what does not change the meaning of an id does not change the fingerprint
    first.no_padding()
    first.enable_truncation(5)
    assert fingerprint(first) == byte_tokenizer(300).fingerprint
    before = fingerprint(first)
    first.add_tokens(["a new one"])
    assert fingerprint(first) != before


@pytest.mark.parametrize("text", ["Hello, world!\n", "", "naïve Ω 漢字 🙂", "  two  spaces\t"])
def test_byte_tokenizer_round_trip(text: str) -> None:
    tokenizer = Tokenizer.from_buffer(byte_tokenizer(300).tokenizer_json)
    ids = tokenizer.encode(text).ids
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_byte_tokenizer_renders_every_id_harmlessly() -> None:
    tokenizer = Tokenizer.from_buffer(byte_tokenizer(300).tokenizer_json)
    assert tokenizer.decode([65, 299, 66]) == "A<299>B"
    assert tokenizer.decode([65, 5000]) == "A"  # beyond the vocabulary
    assert tokenizer.decode([65, 255]) == "A\N{REPLACEMENT CHARACTER}"
    assert tokenizer.decode([BOS_ID, 65, EOS_ID]) == "A"
    assert tokenizer.decode([65, EOS_ID], skip_special_tokens=False) == "A" + EOS_TOKEN


def test_tokenizers_need_no_torch() -> None:
    program = (
        "import sys, minedraft.model.tokenizer, minedraft.model.byte_tokenizer, minedraft.model.simulated_spec,"
        " minedraft.model.architectures, minedraft.model.ragged, minedraft.kv.table, minedraft.kv.sizing,"
        " minedraft.engine.sequence, minedraft.engine.thread;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
