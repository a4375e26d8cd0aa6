"""Whatever a body holds, the door answers as a client could expect, and goes on. Many more: benchmarks/fuzz_http.py."""

from __future__ import annotations

from tests.http.fuzzing import Fuzz

EXAMPLES = 300


def test_no_body_is_a_fault_of_the_server() -> None:
    statuses = Fuzz().run(EXAMPLES)
    assert sum(statuses.values()) >= EXAMPLES * 0.9
    assert statuses[200] > EXAMPLES * 0.1  # the bodies are not all nonsense
    assert statuses[400] > EXAMPLES * 0.1
