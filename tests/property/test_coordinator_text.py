"""Streamed text, joined, is the decoding of all tokens at once, cut before the first stop string to be complete."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from coordinator.detokenizer import LONGEST, Detokenizer
from coordinator.stops import StopScanner
from coordinator.text import TargetText, TextStream
from minedraft.model.byte_tokenizer import BOS_ID, EOS_ID, byte_tokenizer
from minedraft.types import TokenizerFiles

BYTES = TargetText(byte_tokenizer(260))  # 256..259 read <256>..<259>
BROKEN = "\ufffd"


def straddling() -> TargetText:
    """Byte-level tokens whose ends lie in the midst of characters, as real vocabularies have some."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    encode = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    euro = encode.pre_tokenize_str("\u20ac")[0][0]  # three characters that stand for the bytes E2 82 AC
    extra = [euro, euro[1:] + euro[0], euro[:2], " " + euro[:1], euro[2] + euro, "ab", "cab"]
    vocab = {
        token: index for index, token in enumerate([*alphabet, *(token.replace(" ", "\u0120") for token in extra)])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return TargetText(TokenizerFiles(tokenizer.to_str().encode(), "", {}, ""))


def sentencepiece() -> TargetText:
    """As Llama 2 and Mistral have it: words that begin with a sign for the space, and bytes for what is no word."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        "\u2581a",
        "a",
        "b",
        "\u2581bc",
    ]
    tokenizer = Tokenizer(
        models.BPE({word: index for index, word in enumerate(words)}, [], byte_fallback=True, unk_token=words[0])
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in words[:3]])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return TargetText(TokenizerFiles(tokenizer.to_str().encode(), "", {}, ""))


STRADDLING, PIECES = straddling(), sentencepiece()
BYTE, SPACE_A, BC = 3, 260, 263  # ids of <0x00>, "▁a", "▁bc"


def streamed(text: TargetText, tokens: list[int], stops: tuple[str, ...] = ()) -> list[str]:
    """What is shown token by token, then at the end."""
    stream = TextStream(text, stops)
    return [*(stream.push(token) for token in tokens), stream.flush()]


def cut(text: str, stops: tuple[str, ...]) -> str:
    """Before the first stop string to be complete; of those that end together, the longest."""
    ends = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    return text[: sum(min(ends))] if ends else text


characters = st.sampled_from("aab c\u00e9\u20ac\u20ac\U0001f600\ufffd\n")
written = st.text(characters, max_size=60).map(lambda text: list(text.encode()))
any_bytes = st.lists(st.integers(0, 259), max_size=60)
stops = st.lists(st.text(characters, min_size=1, max_size=4), max_size=3).map(tuple)


@given(written | any_bytes, stops)
def test_byte_level(tokens: list[int], stops: tuple[str, ...]) -> None:
    assert "".join(streamed(BYTES, tokens, stops)) == cut(BYTES.decode(tokens), stops)


@given(st.lists(st.integers(0, 262), max_size=20) | st.lists(st.integers(200, 262), max_size=100))
def test_tokens_that_end_within_characters(tokens: list[int]) -> None:
    assert "".join(streamed(STRADDLING, tokens)) == STRADDLING.decode(tokens)


def test_tokens_that_never_end_between_characters() -> None:
    tokens = [257] * (3 * LONGEST)  # 82 AC E2, again and again
    assert "".join(streamed(STRADDLING, tokens)) == STRADDLING.decode(tokens)
    assert STRADDLING.decode(tokens).count("\u20ac") > 2 * LONGEST


@given(
    st.lists(
        st.sampled_from([[0], [1], [2], [259], [SPACE_A], [261], [262], [BC]])
        | characters.map(lambda character: [BYTE + byte for byte in character.encode()]),
        max_size=60,
    ).map(lambda parts: [token for part in parts for token in part])
)
def test_byte_fallback(tokens: list[int]) -> None:
    assert "".join(streamed(PIECES, tokens)) == PIECES.decode(tokens)


def test_byte_fallback_shows_characters_one_by_one() -> None:
    tokens = [BYTE + byte for byte in ("\u20ac" * 30).encode()]
    assert streamed(PIECES, tokens) == ["", "", "\u20ac"] * 30 + [""]


@given(st.lists(st.integers(0, 263), max_size=200))
def test_byte_fallback_survives_garbage(tokens: list[int]) -> None:
    shown = "".join(streamed(PIECES, tokens))
    wanted = PIECES.decode(tokens)
    if BROKEN not in wanted:
        assert shown == wanted


@given(written)
def test_no_half_character_is_shown_before_the_end(tokens: list[int]) -> None:
    text = bytes(tokens).decode()
    so_far = ""
    for piece in streamed(BYTES, tokens):
        so_far += piece
        assert text.startswith(so_far)


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=5), max_size=4).map(tuple), st.data())
def test_stop_strings_do_not_depend_on_the_pieces(text: str, stops: tuple[str, ...], data: st.DataObject) -> None:
    scanner, shown, place = StopScanner(stops), "", 0
    wanted = cut(text, stops)
    while place < len(text):
        size = data.draw(st.integers(1, len(text) - place))
        shown += scanner.feed(text[place : place + size])
        place += size
        assert wanted.startswith(shown)
        held = text[len(shown) : place] if not scanner.stopped else ""
        assert not held or any(stop.startswith(held) for stop in stops)  # held back only where a stop may begin
    assert shown + scanner.flush() == wanted
    assert scanner.stopped == any(stop in text for stop in stops)


def test_nothing_is_shown_after_a_stop() -> None:
    scanner = StopScanner(("ab",))
    assert [scanner.feed("xa"), scanner.feed("bcd"), scanner.feed("e"), scanner.flush()] == ["x", "", "", ""]


@pytest.mark.parametrize("silent", [EOS_ID, BOS_ID])
def test_special_tokens_have_no_text_and_split_nothing(silent: int) -> None:
    first, *rest = "\u20ac".encode()
    pieces = streamed(BYTES, [first, *[silent] * 200, *rest, 65])
    assert "".join(pieces) == "\u20acA"


class Counting:
    """Counts decoded tokens."""

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, token_ids: object) -> str:
        assert isinstance(token_ids, list)
        self.tokens += len(token_ids)
        return BYTES.decode(token_ids)


@pytest.mark.parametrize("token", [65, 0x80, 0xE2, EOS_ID, 259])
def test_the_cost_of_a_token_is_bounded(token: int) -> None:
    counting = Counting()
    detokenizer = Detokenizer(counting)
    text = "".join(detokenizer.push(token) for _ in range(1000)) + detokenizer.flush()
    assert text == BYTES.decode([token] * 1000)
    assert counting.tokens < 1000 * 2 * LONGEST


def test_the_decoder_is_recognised() -> None:
    assert PIECES._byte_fallback
    assert not BYTES._byte_fallback
    assert "ByteFallback" not in json.dumps(json.loads(byte_tokenizer(256).tokenizer_json)["decoder"])
