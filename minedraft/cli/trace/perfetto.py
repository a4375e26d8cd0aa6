"""A recording in the Trace Event Format, which ui.perfetto.dev and chrome://tracing open.

Times are microseconds. A service is a process, a lane a thread of it, a step a complete event; an arrow goes from a
lane's draft step to the verification of its drafts.
"""

from __future__ import annotations

from typing import Any, Final

from minedraft.cli.trace.recording import Bar, Recording, Service, lane_name, service_of
from minedraft.generation import StepKind

US: Final = 1e-3


def trace_events(recording: Recording) -> dict[str, Any]:
    """The file's one JSON object."""
    processes = {service: number for number, service in enumerate(recording.services, 1)}
    events = [*_names(recording, processes)]
    drafted: dict[int, Bar] = {}  # the newest draft step of each lane
    for bar in recording.bars:
        service = service_of(bar.step)
        where = {"pid": processes[service], "tid": bar.step.lane, "ts": _us(bar.begin_ns, recording)}
        events.append(where | _step(bar))
        if bar.step.kind is StepKind.DRAFT:
            drafted[bar.step.lane] = bar
        elif (draft := drafted.pop(bar.step.lane, None)) is not None:
            events += _arrow(draft, bar, processes, recording)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _names(recording: Recording, processes: dict[Service, int]) -> list[dict[str, Any]]:
    lanes = sorted({(processes[service_of(bar.step)], bar.step.lane) for bar in recording.bars})
    return [
        {"ph": "M", "name": "process_name", "pid": number, "args": {"name": service.name}}
        for service, number in processes.items()
    ] + [
        {"ph": "M", "name": "thread_name", "pid": process, "tid": lane, "args": {"name": f"lane {lane_name(lane)}"}}
        for process, lane in lanes
    ]


def _step(bar: Bar) -> dict[str, Any]:
    step, timing = bar.step, bar.step.timing
    drafting = step.kind is StepKind.DRAFT
    shown = {
        "items": step.items,
        "draft_tokens": step.draft_tokens,
        "step_id": step.step_id,
        "queue_us": round(timing.queue_ns * US, 1),
        "host_us": round(timing.host_ns * US, 1),
        "forward_us": round(timing.forward_ns * US, 1),
    }
    return {
        "ph": "X",
        "name": f"{'draft' if drafting else 'verify'} {lane_name(step.lane)}",
        "cat": "draft" if drafting else "verify",
        "dur": (bar.end_ns - bar.begin_ns) * US,
        "args": shown if drafting else shown | {"accepted_tokens": step.accepted_tokens},
    }


def _arrow(draft: Bar, verify: Bar, processes: dict[Service, int], recording: Recording) -> list[dict[str, Any]]:
    ends = (("s", draft, draft.end_ns - 1), ("f", verify, verify.begin_ns))
    return [
        {
            "ph": phase,
            "bp": "e",
            "name": "proposals",
            "cat": "proposals",
            "id": draft.step.number,
            "pid": processes[service_of(bar.step)],
            "tid": bar.step.lane,
            "ts": _us(at, recording),
        }
        for phase, bar, at in ends
    ]


def _us(at_ns: int, recording: Recording) -> float:
    return round((at_ns - recording.begin_ns) * US, 3)
