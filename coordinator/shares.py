"""How much each request may send in a step: prefill, recovery after a restart and decoding by one rule. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from coordinator.request import CacheView, Request


def shares(
    requests: Sequence[Request], cache: Callable[[Request], CacheView], generation: int, *, budget: int, always: int
) -> dict[Request, int]:
    """Tail tokens for each request; 0 leaves it out of this step.

    Tails of at most `always` tokens are never cut: sequences in the midst of decoding always go on. Longer tails, which
    are prompts and caches to be filled again, share `budget` in order.
    """
    granted = {}
    for request in requests:
        wanted = request.tail_len(cache(request), generation)
        if wanted <= always:
            granted[request] = wanted
        else:
            granted[request] = min(wanted, budget)
            budget -= granted[request]
    return granted


def complete(granted: Mapping[Request, int], cache: Callable[[Request], CacheView], generation: int) -> set[Request]:
    """The requests whose share reaches the end of their committed tokens."""
    return {request for request, share in granted.items() if share >= request.tail_len(cache(request), generation)}
