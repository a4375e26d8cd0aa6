"""Texts of tokens: of byte-level, SentencePiece and word vocabularies; offsets of tokens in a text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from minedraft.http.completions import TextOffsets
from minedraft.http.vocabulary import Vocabulary
from minedraft.model.byte_tokenizer import byte_tokenizer
from minedraft.types import TokenizerFiles


def files(tokenizer: Tokenizer) -> TokenizerFiles:
    return TokenizerFiles(tokenizer.to_str().encode(), "", {}, "f")


def sentence_piece() -> Tokenizer:
    """As Llama 2 has it: U+2581 for a space, bytes by name."""
    vocab: Sequence[tuple[str, float]] = [("<unk>", 0.0), ("\u2581Hi", -1.0), ("\u2581", -1.0), ("there", -1.0)]
    vocab = [*vocab, *((f"<0x{byte:02X}>", -9.0) for byte in range(256))]
    tokenizer = Tokenizer(models.Unigram(list(vocab), unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return tokenizer


class TestByteLevel:
    vocabulary = Vocabulary(byte_tokenizer(300))

    @given(st.text(min_size=1))
    def test_bytes_of_tokens_are_the_bytes_of_the_text(self, text: str) -> None:
        encoded = text.encode()
        ids = [byte for byte in encoded if byte not in (2, 3)]  # the special tokens stand in place of these
        assert b"".join(self.vocabulary.content(token) or b"" for token in ids) == bytes(ids)

    def test_half_a_character_is_written_as_bytes(self) -> None:
        assert self.vocabulary.token(0xC3) == ("bytes:\\xc3", b"\xc3")
        assert self.vocabulary.token(65) == ("A", b"A")
        assert self.vocabulary.token(32) == (" ", b" ")

    def test_special_tokens_have_a_name_but_add_nothing(self) -> None:
        assert self.vocabulary.token(3) == ("<|end|>", b"<|end|>")
        assert self.vocabulary.shown(3) == b""

    def test_ids_without_a_token_name_themselves(self) -> None:
        assert self.vocabulary.token(300) == ("token_id:300", None)
        assert self.vocabulary.shown(300) == b"token_id:300"


class TestSentencePiece:
    vocabulary = Vocabulary(files(sentence_piece()))

    def test_spaces_and_bytes(self) -> None:
        tokenizer = sentence_piece()
        ids = tokenizer.encode(" Hi there\u00e9", add_special_tokens=False).ids
        pieces = [self.vocabulary.content(token) for token in ids]
        assert pieces == [b" Hi", b" ", b"there", b"\xc3", b"\xa9"]
        assert self.vocabulary.token(ids[-1]) == ("bytes:\\xa9", b"\xa9")
        assert self.vocabulary.shown(len(tokenizer.get_vocab()) - 1) == b""


def test_word_vocabularies_go_through_their_decoder() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "hi": 1, "##there": 2}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.decoder = decoders.WordPiece()
    vocabulary = Vocabulary(files(tokenizer))
    assert vocabulary.token(1) == ("hi", b"hi")
    assert vocabulary.text([1, 2]) == "hithere"


def test_without_a_tokenizer_there_are_ids_alone() -> None:
    assert Vocabulary().token(5) == ("token_id:5", None)
    assert Vocabulary().text([5]) is None
    assert not Vocabulary().known


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1), st.lists(st.integers(0, 30), max_size=10))
def test_offsets_point_at_the_character_that_a_token_begins(words: list[str], cuts: list[int]) -> None:
    """However a text's bytes are cut into tokens."""
    text = "".join(words)
    encoded = text.encode()
    places = sorted({0, len(encoded), *(cut for cut in cuts if cut < len(encoded))})
    offsets = TextOffsets()
    for begin, end in itertools.pairwise(places):
        assert offsets.take(encoded[begin:end]) == len(encoded[:begin].decode(errors="ignore"))


def test_a_broken_character_counts_as_one_sign() -> None:
    offsets = TextOffsets()
    assert [offsets.take(piece) for piece in (b"a", b"\xe6", b"6", b"")] == [0, 1, 2, 3]


@pytest.mark.parametrize("byte", [0x41, 0xC3])
def test_offsets_of_lone_bytes(byte: int) -> None:
    assert TextOffsets().take(bytes([byte])) == 0
