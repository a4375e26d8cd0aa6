"""A tokenizer that needs no training: one token a byte. For simulated models, and for tests. Torch-free."""

from __future__ import annotations

from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from minedraft.model.tokenizer import fingerprint
from minedraft.types import TokenizerFiles

NUM_BYTES: Final = 256
# Control bytes that text does not hold: start of text and end of text (ASCII STX, ETX).
BOS_ID: Final = 2
EOS_ID: Final = 3
BOS_TOKEN: Final = "<|start|>"  # noqa: S105  # a token, not a password
EOS_TOKEN: Final = "<|end|>"  # noqa: S105
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def byte_tokenizer(vocab_size: int = NUM_BYTES) -> TokenizerFiles:
    """A token's id is its byte's value. Ids 2 and 3 are the start and the end; ids from 256 on read `<id>`."""
    vocab = {_character(byte): byte for byte in range(NUM_BYTES) if byte not in {BOS_ID, EOS_ID}}
    vocab |= {BOS_TOKEN: BOS_ID, EOS_TOKEN: EOS_ID}
    vocab |= {f"<{token_id}>": token_id for token_id in range(NUM_BYTES, vocab_size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (BOS_TOKEN, EOS_TOKEN)])
    return TokenizerFiles(
        tokenizer_json=tokenizer.to_str().encode(),
        chat_template=CHAT_TEMPLATE,
        special_tokens={"bos_token": BOS_TOKEN, "eos_token": EOS_TOKEN},
        fingerprint=fingerprint(tokenizer),
    )


def _character(byte: int) -> str:
    """The printable character that stands for a byte in byte-level vocabularies (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    others = [other for other in range(NUM_BYTES) if other not in printable]
    return chr(NUM_BYTES + others.index(byte))
