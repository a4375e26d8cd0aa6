"""Tokens to text, piece by piece: never half a character, at a bounded cost for each token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

BROKEN: Final = "\ufffd"  # what a decoder writes for bytes that are not, or not yet, a character
# A character has at most 4 bytes and a token at least one, so what KEPT tokens decode to ends right however it begins.
KEPT: Final = 16
LONG: Final = 32  # the window is shortened from here on, when no character is unfinished
LONGEST: Final = 64  # and here in any case
ALIGNMENTS: Final = 4


class Detokenizer:
    """One output's tokens as text. What it gives out, joined, is the decoding of all tokens at once.

    A token alone does not say its text: its neighbours decide about spaces and split characters. So a window of the
    newest tokens is decoded at every token, and what was given out before is subtracted. The window is shortened from
    the left; what is still to be shown is counted from the right, where the cut changes nothing.

    Byte-fallback decoders (SentencePiece) spoil a whole run of byte tokens when one of them is wrong. There the pieces
    keep the characters that were right when they were shown.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], silent_ids: Collection[int] = (), *, byte_fallback: bool = False
    ) -> None:
        """`silent_ids` are tokens without text, such as EOS. `byte_fallback` is true for a decoder that has one."""
        self._decode = decode
        self._silent_ids = silent_ids
        self._byte_fallback = byte_fallback
        self._window: list[int] = []
        self._shown = 0  # characters of the window's text that were given out, or lie before what was

    def push(self, token_id: int) -> str:
        """The text that one more token makes certain; "" while a character is unfinished."""
        if token_id in self._silent_ids:
            return ""
        self._window.append(token_id)
        text = self._decode(self._window)
        certain = max(len(text) - self._unfinished(text), self._shown)
        piece = text[self._shown : certain]
        self._shown = certain
        if len(self._window) >= (LONG if certain == len(text) else LONGEST):
            piece += self._shorten(text)
        return piece

    def flush(self) -> str:
        """What is left at the end, broken characters included."""
        left = self._decode(self._window)[self._shown :]
        self._window, self._shown = [], 0
        return left

    def _unfinished(self, text: str) -> int:
        """Characters at the end that later tokens may still change."""
        if self._byte_fallback:  # one sign for each byte of the run
            return len(text) - len(text.rstrip(BROKEN))
        return int(text.endswith(BROKEN))  # one sign for the whole beginning of a character

    def _shorten(self, text: str) -> str:
        """Drop the window's older tokens; returns text that cannot be held back any longer."""
        hidden = len(text) - self._shown
        first = len(self._window) - KEPT
        for cut in range(first, first + ALIGNMENTS):  # best between characters, where that can be
            rest = self._decode(self._window[cut:])
            if text.endswith(rest):
                break
        else:
            cut = first
            rest = self._decode(self._window[cut:])
        self._window = self._window[cut:]
        excess = text[len(text) - hidden : max(len(text) - len(rest), len(text) - hidden)]
        self._shown = len(rest) - hidden + len(excess)
        return excess
