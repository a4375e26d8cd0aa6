"""The tensor channel between a drafter and a verifier: chosen by facts, tried with real bytes, renewed when it fails.

The coordinator carries the handshake and, later, references to payloads. The payloads themselves pass it by, except on
an inline channel. While no channel is open dense laws are replaced by top-M ones, which are exact as well.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from dataclasses import dataclass
from typing import Final

import structlog

from coordinator.line import ChannelState, DraftLine
from coordinator.peers import DraftPeer, VerifyPeer
from minedraft.channel.negotiate import candidates, same_host
from minedraft.config import MIB, CoordinatorSettings
from minedraft.errors import ChannelError
from minedraft.types import (
    ChannelAction,
    ChannelFault,
    ChannelKind,
    ChannelRequest,
    ChannelRole,
    ChannelSpec,
    HostFacts,
    PayloadRef,
)

PAGE: Final = 4096
NONCE_BYTES: Final = 64
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 15.0  # after every candidate failed its trial; facts do not change without a new connection
STEADY_SECONDS: Final = 10.0  # a channel that lived this long is renewed without a pause
AUTO: Final = "auto"
PLAINTEXT: Final = frozenset({ChannelKind.GLOO, ChannelKind.NCCL})  # what they carry can be read on the network


@dataclass(frozen=True, slots=True)
class Link:
    """Two connections, one to each service."""

    drafter: int  # generations
    verifier: int


class ChannelKeeper:
    """Keeps the channel of one line open while both services are connected. Runs on the event loop."""

    def __init__(self, line: DraftLine, settings: CoordinatorSettings) -> None:
        self._line = line
        self._drafter, self._verifier = line.drafter, line.verifier
        self._settings = settings
        self._wanted = None if settings.channel == AUTO else ChannelKind(settings.channel)
        self._channel_id = uuid.uuid4().hex
        self._generation = line.channel.generation  # goes on where an earlier channel of this line stopped
        self._spec: ChannelSpec | None = None  # what is open
        self._left: ChannelSpec | None = None  # what was open when it was to stop
        self._link: Link | None = None  # that it was opened over, or tried to
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger().bind(drafter=line.drafter.address, verifier=line.verifier.address)

    def start(self) -> None:
        for peer in (self._drafter, self._verifier):
            peer.on_change.append(self._changed)
            peer.on_fault.append(self._failed)
        self._drafter.relays[self._channel_id] = self._verifier
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Use the channel no more, and have both ends freed as far as they can be reached."""
        self.leave()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        if self._left is not None and self._link is not None:
            await self._close(self._link, self._left)
        self._drafter.relays.pop(self._channel_id, None)

    def leave(self) -> None:
        """The part of `stop` that takes no time: from now on another keeper may open a channel for the line."""
        if self._task is None or self._task.cancelling():
            return
        for peer in (self._drafter, self._verifier):
            peer.on_change.remove(self._changed)
            peer.on_fault.remove(self._failed)
        self._task.cancel()
        self._left = self._spec
        self._forget("no lane uses it")

    def _changed(self) -> None:
        """A connection began or ended: what was open over the former ones is void at once."""
        current = self._current()
        if self._link != current:
            self._forget("the services are not both connected" if current is None else "")
            self._wake.set()

    def _failed(self, fault: ChannelFault) -> None:
        """A step lost payloads. Stop using the channel at once, and open another."""
        spec = self._spec
        if spec is not None and (fault.channel_id, fault.generation) == (spec.channel_id, spec.generation):
            self._log.warning("channel failed", kind=spec.kind.value, generation=spec.generation, reason=fault.reason)
            self._forget(f"the {spec.kind.value} channel failed: {fault.reason}")
            self._link = None
            self._wake.set()

    def _forget(self, note: str) -> None:
        self._spec = None
        self._line.channel = ChannelState(note=note, generation=self._generation)

    def _current(self) -> Link | None:
        """The connections that are open now; None while one is not."""
        if not (self._drafter.linked and self._verifier.linked):
            return None
        return Link(self._drafter.generation, self._verifier.generation)

    async def _keep(self) -> None:
        pause, opened = FIRST_PAUSE_SECONDS, 0.0
        while True:
            self._wake.clear()
            link = self._current()
            if link is not None and link != self._link:
                if opened and time.monotonic() - opened < STEADY_SECONDS:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                else:
                    pause = FIRST_PAUSE_SECONDS
                self._link = link
                opened = time.monotonic()
                await self._open(link)
            else:
                await self._wake.wait()

    async def _open(self, link: Link) -> None:
        """Open the best channel that works, and have the drafter use it."""
        slots, slot_bytes, needless = self._size()
        if needless:
            self._line.channel = ChannelState(note=needless, generation=self._generation)
            return
        passed_over: list[str] = []
        tried = False
        for candidate in candidates(_facts(self._drafter), _facts(self._verifier), self._wanted):
            if reason := candidate.obstacle or self._exposure(candidate.kind):
                passed_over.append(f"{candidate.kind.value}: {reason}")
                continue
            tried = True
            self._generation += 1
            spec = ChannelSpec(self._channel_id, self._generation, candidate.kind, slots, slot_bytes)
            try:
                await self._try(link, spec)
            except ChannelError as error:
                passed_over.append(f"{candidate.kind.value}: {error}")
                self._log.warning("channel failed its trial", kind=candidate.kind.value, reason=str(error))
                await self._close(link, spec)
                if link != self._current():
                    return
                continue
            if link == self._current():
                self._use(spec, passed_over)
            return
        self._refuse(passed_over)
        if tried:
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._try_again, link)

    def _try_again(self, link: Link) -> None:
        """What failed its trial may have been a matter of the moment."""
        if self._spec is None and self._link == link:
            self._link = None
            self._wake.set()

    def _exposure(self, kind: ChannelKind) -> str:
        """Why a channel that nobody asked for by name would undo the encryption that was asked for; "" otherwise."""
        if self._wanted is not None or not self._settings.tls_ca:
            return ""
        return exposure(kind, _facts(self._drafter), _facts(self._verifier))

    def _use(self, spec: ChannelSpec, passed_over: list[str]) -> None:
        note = "asked for" if self._wanted else "; ".join(["the best that works", *passed_over])
        self._spec = spec
        self._line.channel = ChannelState(spec.channel_id, spec.kind, note, spec.generation)
        self._log.info(
            "channel open",
            kind=spec.kind.value,
            generation=spec.generation,
            slots=spec.slots,
            slot_bytes=spec.slot_bytes,
            note=note,
        )

    def _refuse(self, passed_over: list[str]) -> None:
        """Nothing works. Where one kind was asked for, that is an error: the drafter is not used."""
        reason = "; ".join(passed_over)
        refusal = f"--channel {self._settings.channel} cannot work: {reason}" if self._wanted else ""
        self._line.channel = ChannelState(note=reason, generation=self._generation, refusal=refusal)
        self._log.error("no channel", asked_for=self._settings.channel, reason=reason)

    def _size(self) -> tuple[int, int, str]:
        """(slots, bytes of a slot, why no channel is needed or possible)."""
        welcome = self._drafter.welcome
        payload = welcome.payload_bytes_per_draft * max(self._settings.draft_token_choices) if welcome else 0
        slot_bytes = max(PAGE, -(-payload // PAGE) * PAGE)
        # One for each sequence that can be under way, and one that stays with the trial.
        slots = min(self._settings.capacity, self._settings.channel_mib * MIB // slot_bytes)
        if payload == 0 and self._wanted is None:
            return 0, 0, "the draft law sends no tensors"
        if slots < 1:
            return 0, 0, f"one payload has {slot_bytes / MIB:.0f} MiB: give a larger --channel-mib"
        return slots + 1, slot_bytes, ""

    async def _try(self, link: Link, spec: ChannelSpec) -> None:
        """Handshake, then bytes there and back. Raises ChannelError."""
        offer = await self._ask_verifier(link, spec, ChannelAction.OFFER)
        answer = await self._ask_drafter(link, spec, ChannelAction.JOIN, offer)
        await self._ask_verifier(link, spec, ChannelAction.SEAL, answer)
        nonce = secrets.token_bytes(NONCE_BYTES)
        request = ChannelRequest(spec, ChannelRole.SENDER, ChannelAction.PROBE_WRITE, nonce)
        written = await self._drafter.ask_channel(link.drafter, request)
        seen = await self._ask_verifier(link, spec, ChannelAction.PROBE_READ, reference=written.reference)
        if seen != nonce:
            raise ChannelError("other bytes arrived than were sent")

    async def _ask_verifier(
        self,
        link: Link,
        spec: ChannelSpec,
        action: ChannelAction,
        data: bytes = b"",
        reference: PayloadRef | None = None,
    ) -> bytes:
        request = ChannelRequest(spec, ChannelRole.RECEIVER, action, data, reference)
        return (await self._verifier.ask_channel(link.verifier, request)).data

    async def _ask_drafter(self, link: Link, spec: ChannelSpec, action: ChannelAction, data: bytes = b"") -> bytes:
        request = ChannelRequest(spec, ChannelRole.SENDER, action, data)
        return (await self._drafter.ask_channel(link.drafter, request)).data

    async def _close(self, link: Link, spec: ChannelSpec) -> None:
        """Have both ends freed, as far as the services can still be reached."""
        await asyncio.gather(
            self._ask_verifier(link, spec, ChannelAction.CLOSE),
            self._ask_drafter(link, spec, ChannelAction.CLOSE),
            return_exceptions=True,
        )


def exposure(kind: ChannelKind, drafter: HostFacts, verifier: HostFacts) -> str:
    """Whether payloads would cross a network in plaintext, in words; "" when they would not."""
    if kind in PLAINTEXT and not same_host(drafter, verifier):
        return "it is not encrypted, and --tls-ca asks for encryption: ask for it by --channel if the network is safe"
    return ""


def _facts(peer: DraftPeer | VerifyPeer) -> HostFacts:
    return peer.welcome.host if peer.welcome else HostFacts()
