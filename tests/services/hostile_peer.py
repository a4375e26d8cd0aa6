"""A coordinator that has gone bad: right messages of its two streams, as a source of wrong ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import numpy as np

from minedraft.v1 import common_pb2 as common
from minedraft.v1 import drafter_pb2 as drafter
from minedraft.v1 import generation_pb2 as generation
from minedraft.v1 import verifier_pb2 as verifier
from tests.services.hostile import VOCAB

KINDS: Final = (
    *(common.CHANNEL_KIND_INLINE,) * 12,
    *(common.CHANNEL_KIND_SHM,) * 12,
    *(common.CHANNEL_KIND_CUDA_IPC, common.CHANNEL_KIND_NCCL, common.CHANNEL_KIND_GLOO),
)
ACTIONS: Final[tuple[Any, ...]] = tuple(number for number in common.ChannelAction.values() if number)
ROLES: Final = (common.CHANNEL_ROLE_SENDER, common.CHANNEL_ROLE_RECEIVER)
SLOTS: Final = 3
SLOT_BYTES: Final = 8 * VOCAB * 4


def sampling(rng: Random) -> common.SamplingParams:
    """Right, with a few of its fields given."""
    wanted: dict[str, Any] = {
        "temperature": rng.choice((0.0, 0.0, 0.7, 1.0)),
        "top_p": rng.choice((0.5, 1.0)),
        "top_k": rng.choice((0, 5, VOCAB)),
        "min_p": rng.choice((0.0, 0.1)),
        "repetition_penalty": rng.choice((1.0, 1.3)),
        "frequency_penalty": rng.choice((0.0, -2.0)),
        "presence_penalty": rng.choice((0.0, 2.0)),
        "max_new_tokens": rng.randint(1, 12),
        "min_new_tokens": rng.choice((0, 1)),
        "seed": rng.getrandbits(64),
        "logprobs": rng.choice((0, 3)),
    }
    fields = {name: value for name, value in wanted.items() if rng.random() < 0.4}
    message = common.SamplingParams(**(fields | {"max_new_tokens": wanted["max_new_tokens"]}))
    if rng.random() < 0.2:
        message.logit_bias[rng.randrange(VOCAB)] = rng.uniform(-100, 100)
    if rng.random() < 0.2:
        message.stop.append("zz")
    if rng.random() < 0.2:
        message.stop_token_ids.append(rng.randrange(VOCAB))
    return message


def generate(rng: Random) -> generation.GenerateRequest:
    """A right request."""
    message = generation.GenerateRequest(sampling=sampling(rng))
    match rng.randrange(3):
        case 0:
            message.text = rng.choice(("Hi", "Once upon a time", "\x00\U0001f600"))
        case 1:
            message.chat.messages.add(role="user", content="Hi")
        case _:
            message.token_ids.ids.extend(_tokens(rng, rng.randint(1, 20)))
    if rng.random() < 0.3:
        message.max_draft_tokens = rng.randint(0, 6)
    if rng.random() < 0.3:
        message.request_id = f"fuzz-{rng.getrandbits(20)}"
    return message


def _tokens(rng: Random, count: int) -> list[int]:
    return [rng.randrange(VOCAB) for _ in range(count)]


@dataclass
class Enemy:
    """One stream's worth of memory. `request` is DraftRequest or VerifyRequest."""

    rng: Random
    request: type[Any]
    committed: dict[int, list[int]] = field(default_factory=dict)  # sequence -> what the service was sent of it
    answers: list[bytes] = field(default_factory=list)  # data of channel responses, to be used in other requests
    references: list[common.PayloadRef] = field(default_factory=list)
    steps: int = 0

    def right(self) -> Any:
        """A message that a good coordinator might send now."""
        chunks = 1 if self.request is verifier.VerifyRequest else 0
        kinds = ("step", "channel", "release", "heartbeat", "chunk")
        match self.rng.choices(kinds, (10, 4, 1, 1, 2 * chunks))[0]:
            case "step":
                return self._step()
            case "channel":
                return self.request(channel=self._channel())
            case "release":
                return self.request(release=self._release())
            case "heartbeat":
                return self.request(heartbeat=common.Heartbeat(nonce=self.rng.getrandbits(64)))
            case _:
                return self.request(chunk=self._chunk())

    def saw(self, response: Any) -> None:
        """The service answered."""
        if response.WhichOneof("message") == "channel":
            self.answers.append(response.channel.data)
            if response.channel.HasField("reference"):
                self.references.append(response.channel.reference)

    def _step(self) -> Any:
        self.steps += 1
        sequences = self.rng.sample(range(6), self.rng.randint(1, 3))
        if self.request is drafter.DraftRequest:
            items = [self._draft_item(sequence) for sequence in sequences]
            channel = self.rng.choice(("", "c1", "c2"))
            return drafter.DraftRequest(
                step=drafter.DraftStep(step_id=self.steps, lane=1, items=items, channel_id=channel)
            )
        return verifier.VerifyRequest(
            step=verifier.VerifyStep(step_id=self.steps, items=[self._verify_item(sequence) for sequence in sequences])
        )

    def _item(self, sequence: int) -> dict[str, Any]:
        """The fields that both kinds have. Continues the sequence, or begins it anew."""
        rng = self.rng
        known = self.committed.setdefault(sequence, [])
        base = rng.choice((0, len(known), len(known), max(len(known) - 2, 0)))
        tail = _tokens(rng, rng.randint(1, 12))
        self.committed[sequence] = [*known[:base], *tail]
        fields: dict[str, Any] = {"sequence_id": sequence, "base_len": base, "tail_token_ids": tail}
        if base == 0:
            rule = rng.choice((common.ACCEPTANCE_RULE_REJECTION, common.ACCEPTANCE_RULE_MATCH))
            fields["params"] = common.SequenceParams(
                prompt_len=len(tail), seed=rng.getrandbits(64), rule=rule, sampling=sampling(rng)
            )
        return fields

    def _draft_item(self, sequence: int) -> drafter.DraftItem:
        return drafter.DraftItem(
            **self._item(sequence),
            max_draft_tokens=self.rng.randint(0, 5),
            least_chance=self.rng.choice((0.0, 0.3, 1.0)),
        )

    def _verify_item(self, sequence: int) -> verifier.VerifyItem:
        item = verifier.VerifyItem(**self._item(sequence), emit=self.rng.random() < 0.8)
        if self.rng.random() < 0.7:
            item.proposal.CopyFrom(self._proposal(sequence))
        return item

    def _proposal(self, sequence: int) -> common.Proposal:
        rng = self.rng
        drafts = _tokens(rng, rng.randint(1, 4))
        proposal = common.Proposal(sequence_id=sequence, token_ids=drafts, status=common.ITEM_STATUS_OK)
        match rng.randrange(4):
            case 0:
                proposal.point_mass.SetInParent()
            case 1:
                ids = np.array([[draft, (draft + 1) % VOCAB] for draft in drafts], "<i4")
                _write(proposal.top_m.token_ids, ids, common.D_TYPE_INT32)
                _write(proposal.top_m.weights, np.full(ids.shape, 0.5, "<f4"), common.D_TYPE_FLOAT32)
            case 2:
                weights = np.full((len(drafts), VOCAB), 1 / VOCAB, "<f2")
                _write(proposal.dense.inline, weights, common.D_TYPE_FLOAT16)
            case _:
                proposal.dense.reference.CopyFrom(self._reference(len(drafts)))
        return proposal

    def _reference(self, drafts: int) -> common.PayloadRef:
        if self.references and self.rng.random() < 0.5:
            return self.rng.choice(self.references)
        return common.PayloadRef(
            channel_id=self.rng.choice(("c1", "c2")), generation=1, slot=self.rng.randrange(SLOTS),
            sequence=self.rng.randint(1, 3), nbytes=drafts * VOCAB * 4, dtype=common.D_TYPE_FLOAT32,
            shape=[drafts, VOCAB],
        )  # fmt: skip

    def _channel(self) -> common.ChannelRequest:
        rng = self.rng
        name = rng.choice(("c1", "c2"))
        spec = common.ChannelSpec(
            channel_id=name, generation=1, kind=rng.choice(KINDS), slots=SLOTS, slot_bytes=SLOT_BYTES
        )
        action = rng.choice(ACTIONS)
        message = common.ChannelRequest(
            request_id=rng.getrandbits(32), spec=spec, role=rng.choice(ROLES), action=action, data=self._data()
        )
        # A payload that never comes is waited for: mostly ask for those that were sent.
        if action == common.CHANNEL_ACTION_PROBE_READ and (self.references or rng.random() < 0.02):
            message.reference.CopyFrom(self._reference(1))
        return message

    def _data(self) -> bytes:
        if self.answers and self.rng.random() < 0.7:
            return self.rng.choice(self.answers)
        return self.rng.choice((b"", b"probe", b"{}", b'{"version": 1, "name": "\\ud800", "nbytes": 1}', b"[" * 20_000))

    def _release(self) -> common.Release:
        gone = self.rng.sample(range(8), self.rng.randint(0, 3))
        for sequence in gone:
            self.committed.pop(sequence, None)
        return common.Release(sequence_ids=gone)

    def _chunk(self) -> common.PayloadChunk:
        drafts = self.rng.randint(1, 4)
        nbytes = drafts * VOCAB * 4
        return common.PayloadChunk(
            channel_id=self.rng.choice(("c1", "c2")), generation=1, slot=self.rng.randrange(SLOTS),
            sequence=self.rng.randint(1, 3), nbytes=nbytes,
            data=np.full(drafts * VOCAB, self.rng.choice((0.5, 0.0, np.nan, -1.0)), "<f4").tobytes(),
        )  # fmt: skip


def _write(message: common.Array, array: Any, dtype: Any) -> None:
    message.dtype, message.data = dtype, array.tobytes()
    message.shape.extend(array.shape)
