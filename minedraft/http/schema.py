"""Bodies of completion and chat requests, read into what they ask for. Unknown and unsupported fields are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from minedraft.errors import InvalidRequest
from minedraft.generation import Prompt, Text, TokenIds
from minedraft.http.asked import SEEDS, Asked
from minedraft.http.fields import UINT32, Fields, as_number, as_tokens, kind_of
from minedraft.http.messages import read_chat
from minedraft.types import SamplingParams

DEFAULT_COMPLETION_TOKENS: Final = 16  # OpenAI's default of max_tokens for completions
MOST_TOP_LOGPROBS: Final = 20
# Fields that change nothing in the answer: accounting, storage, caching, and a hint about the output.
IGNORED: Final = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prediction", "prompt_cache_key",
        "prompt_cache_options", "prompt_cache_retention", "parallel_tool_calls",
    }
)  # fmt: skip
# Fields that would change the answer, and the values with which they would not.
UNSUPPORTED: Final[Mapping[str, tuple[object, ...]]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "moderation": (),
    "suffix": ("",),
}
STREAM_OPTIONS: Final = frozenset({"include_obfuscation", "continuous_usage_stats"})  # do not change the tokens


@dataclass(frozen=True, slots=True)
class Limits:
    """What the door itself holds requests to. The coordinator has its own."""

    choices: int


def read_chat_request(body: object, limits: Limits) -> Asked:
    """The body of POST /v1/chat/completions. Raises InvalidRequest."""
    fields = Fields(body)
    prompt = read_chat(fields.take("messages"))
    wanted = fields.flag("logprobs")
    top = fields.whole("top_logprobs", 0, MOST_TOP_LOGPROBS)
    if top is not None and not wanted:
        raise InvalidRequest("top_logprobs", "logprobs must be true")
    names = {"chat": "messages", "chat.messages": "messages", "chat.messages.role": "messages"}
    return _read_rest(fields, (prompt,), (top or 0) if wanted else None, 0, limits, names | _top("top_logprobs"))


def read_completion_request(body: object, limits: Limits) -> Asked:
    """The body of POST /v1/completions. Raises InvalidRequest."""
    fields = Fields(body)
    prompts = _read_prompts(fields.take("prompt"))
    logprobs = fields.whole("logprobs")
    names = {"text": "prompt", "token_ids": "prompt"}
    return _read_rest(fields, prompts, logprobs, DEFAULT_COMPLETION_TOKENS, limits, names | _top("logprobs"), echo=True)


def _read_rest(
    fields: Fields,
    prompts: tuple[Prompt, ...],
    logprobs: int | None,
    default_tokens: int,
    limits: Limits,
    names: dict[str, str],
    echo: bool = False,
) -> Asked:
    """The fields that both forms have. `default_tokens` 0 leaves the length to the coordinator."""
    stream = bool(fields.flag("stream"))
    echo = bool(fields.flag("echo")) if echo else False
    if echo and logprobs is not None:
        raise InvalidRequest("echo", "is not supported together with logprobs")
    n = _read_n(fields, len(prompts), limits)
    length_name, length = _read_length(fields)
    asked = Asked(
        model=fields.text("model"),
        prompts=prompts,
        n=n,
        sampling=_read_sampling(fields, length or default_tokens, logprobs),
        max_draft_tokens=fields.whole("max_draft_tokens"),
        stream=stream,
        include_usage=_read_stream_options(fields, stream),
        echo=echo,
        names={**names, "sampling.max_new_tokens": length_name, "sampling.min_new_tokens": "min_tokens"},
    )
    _refuse_unsupported(fields)
    fields.drop(IGNORED)
    fields.end()
    return asked


def _read_sampling(fields: Fields, length: int, logprobs: int | None) -> SamplingParams:
    """Ranges are the coordinator's to check, but for what the wire cannot carry."""
    temperature, top_p, repetition = (fields.number(name) for name in ("temperature", "top_p", "repetition_penalty"))
    top_k = fields.whole("top_k", -1) or 0
    seed = fields.whole("seed", -SEEDS // 2, SEEDS - 1)
    return SamplingParams(
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        top_k=max(top_k, 0),  # -1, as 0, keeps all
        min_p=fields.number("min_p") or 0.0,
        repetition_penalty=1.0 if repetition is None else repetition,
        frequency_penalty=fields.number("frequency_penalty") or 0.0,
        presence_penalty=fields.number("presence_penalty") or 0.0,
        logit_bias=_read_bias(fields.take("logit_bias")),
        max_new_tokens=length,
        min_new_tokens=fields.whole("min_tokens") or 0,
        stop=_read_stop(fields.take("stop")),
        stop_token_ids=as_tokens(fields.items("stop_token_ids") or [], "stop_token_ids"),
        ignore_eos=bool(fields.flag("ignore_eos")),
        seed=None if seed is None else seed % SEEDS,
        logprobs=logprobs,
    )


def _read_prompts(value: object) -> tuple[Prompt, ...]:
    """A string, strings, token ids, or lists of token ids."""
    if isinstance(value, str):
        return (Text(value),)
    if not isinstance(value, list):
        wanted = "is required" if value is None else f"must be a string or an array, not {kind_of(value)}"
        raise InvalidRequest("prompt", wanted)
    if not value:
        raise InvalidRequest("prompt", "must not be empty")
    if isinstance(value[0], str | list):
        return tuple(_read_one_of_many(entry, f"prompt[{index}]") for index, entry in enumerate(value))
    return (TokenIds(as_tokens(value, "prompt")),)


def _read_one_of_many(value: object, name: str) -> Prompt:
    if isinstance(value, str):
        return Text(value)
    if isinstance(value, list):
        return TokenIds(as_tokens(value, name))
    raise InvalidRequest(name, f"must be a string or an array of token ids, not {kind_of(value)}")


def _read_n(fields: Fields, prompts: int, limits: Limits) -> int:
    n = fields.whole("n", 1)
    best_of = fields.whole("best_of", 1)
    n = 1 if n is None else n
    if best_of not in (None, n):
        raise InvalidRequest("best_of", "is not supported other than equal to n")
    if n * prompts > limits.choices:
        raise InvalidRequest("n", f"{prompts} x {n} choices; at most {limits.choices} a request")
    return n


def _read_length(fields: Fields) -> tuple[str, int]:
    """(the name by which the client gave it, the length), 0 for none."""
    newer, older = fields.whole("max_completion_tokens", 1), fields.whole("max_tokens", 1)
    if newer is None:
        return "max_tokens", older or 0
    if older not in (None, newer):
        raise InvalidRequest("max_tokens", "and max_completion_tokens disagree")
    return "max_completion_tokens", newer


def _read_stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    given = value if isinstance(value, list) else [value]
    stops = tuple(stop for stop in given if isinstance(stop, str))
    if len(stops) != len(given):
        raise InvalidRequest("stop", "must be a string or an array of strings")
    return stops


def _read_bias(value: object) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest("logit_bias", f"must be an object, not {kind_of(value)}")
    biases = {}
    for key, bias in value.items():
        if not (key.isascii() and key.isdigit() and len(key) <= len(str(UINT32)) and int(key) <= UINT32):
            raise InvalidRequest("logit_bias", f"keys must be token ids, integers in [0, {UINT32}]")
        biases[int(key)] = as_number(bias, "logit_bias")
    return biases


def _read_stream_options(fields: Fields, stream: bool) -> bool:
    """Whether the stream ends with the usage."""
    value = fields.take("stream_options")
    if value is None:
        return False
    if not stream:
        raise InvalidRequest("stream_options", "is only allowed when stream is true")
    options = Fields(value, "stream_options")
    wanted = bool(options.flag("include_usage"))
    for name in STREAM_OPTIONS:
        options.flag(name)
    options.end()
    return wanted


def _refuse_unsupported(fields: Fields) -> None:
    for name, harmless in UNSUPPORTED.items():
        value = fields.take(name)
        if value is not None and value not in harmless:
            raise InvalidRequest(name, "is not supported")


def _top(name: str) -> dict[str, str]:
    return {"sampling.logprobs": name}
