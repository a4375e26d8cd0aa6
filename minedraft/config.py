"""Settings of the three services. Flags, environment and defaults meet here and nowhere else.

A setting `draft_tokens` is the flag `--draft-tokens` and the variable `MINEDRAFT_DRAFT_TOKENS`; the flag wins.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from minedraft.errors import SetupError

MIB = 1 << 20
DTypeName = Literal["auto", "float32", "bfloat16", "float16", "float64"]
WeightsName = Literal["auto", "plain", "int8"]
ChannelName = Literal["auto", "inline", "shm", "gloo", "cuda_ipc", "nccl"]
KernelsName = Literal["auto", "native", "torch"]
AttentionName = Literal["auto", "sdpa", "flash_attn"]
DraftLawName = Literal["point_mass", "top_m", "dense"]
AUTO: Final = "auto"
AUTO_LANES: Final = 4  # lanes that may be chosen at most
AUTO_DRAFT_TOKENS: Final = 8  # K that may be chosen at most
OPENMP_SPINS: Final = {"GOMP_SPINCOUNT": "10000"}  # a fraction of a millisecond: more than between two operations
AUTO_FULL_LANES: Final = 2  # with lanes chosen, as many requests run as fill this many


def auto_or(least: int, most: int) -> BeforeValidator:
    """Reads `auto` or a whole number in a range."""

    def read(value: object) -> int | str:
        text = str(value)
        if text == AUTO:
            return text
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ValueError(f"{text!r} is neither auto nor a number from {least} to {most}")
        return int(text)

    return BeforeValidator(read)


AutoLanes = Annotated[int | Literal["auto"], auto_or(1, 64)]
AutoDraftTokens = Annotated[int | Literal["auto"], auto_or(0, 64)]


class ProcessSettings(BaseSettings):
    """What every process takes."""

    model_config = SettingsConfigDict(
        env_prefix="MINEDRAFT_", frozen=True, extra="ignore", cli_kebab_case=True, cli_implicit_flags=True,
        protected_namespaces=(),
    )  # fmt: skip

    listen: str = Field("127.0.0.1:0", description="address to serve on, HOST:PORT; port 0 takes a free one")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe log line to write"
    )
    log_format: Literal["console", "json"] = Field("console", description="log lines for people or for machines")
    max_message_mib: Annotated[int, Field(ge=1, le=1024)] = Field(64, description="largest gRPC message, MiB")
    grace_seconds: Annotated[float, Field(ge=0)] = Field(
        10.0, description="time for running work after SIGTERM, seconds"
    )
    metrics: str = Field("", description="address of Prometheus metrics over HTTP, HOST:PORT; empty: none")
    announce: bool = Field(False, description="print one line `listening HOST:PORT` on stdout once the service serves")

    @field_validator("listen", "metrics")
    @classmethod
    def _has_port(cls, value: str, info: ValidationInfo) -> str:
        if info.field_name == "metrics" and not value:
            return value
        host, colon, port = value.rpartition(":")
        if not (host and colon and port.isdigit() and int(port) < 65536):
            raise ValueError(f"{value!r} is not HOST:PORT")
        return value


class ServiceSettings(ProcessSettings):
    """What every gRPC service takes: its certificate, and how much one connection may ask of it."""

    tls_cert: str = Field(
        "", description="PEM file of this service's certificate chain, read again when it changes; empty: no TLS"
    )
    tls_key: str = Field("", description="PEM file of the certificate's private key")
    tls_client_ca: str = Field(
        "", description="PEM file of the authorities whose certificates clients must show; empty: clients need none"
    )
    max_concurrent_streams: Annotated[int, Field(ge=1, le=2**31 - 1)] = Field(
        1000, description="calls at once on one connection"
    )
    max_connections: Annotated[int, Field(ge=1, le=2**31 - 1)] = Field(
        900, description="connections at once; more are refused. Keep it below the limit of open files, often 1024"
    )
    handshake_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        10.0, description="a connection that has not said hello by then is closed"
    )
    max_connection_idle_seconds: Annotated[float, Field(ge=0, le=1_000_000)] = Field(
        900.0, description="a connection without a call for this long is closed; 0: never"
    )
    max_connection_age_seconds: Annotated[float, Field(ge=0, le=1_000_000)] = Field(
        0.0, description="after this long clients are asked to connect anew, while running calls go on; 0: never"
    )
    otlp: str = Field(
        "", description="OpenTelemetry collector for traces, http://HOST:PORT (OTLP over gRPC) or https://; empty: none"
    )
    trace_sample: Annotated[float, Field(ge=0, le=1)] = Field(
        0.05, description="share of the requests that are traced, of those whose callers do not say"
    )


class DialSettings(BaseSettings):
    """How a process shows itself to the servers that it calls, and which of them it believes."""

    tls_ca: str = Field(
        "", description="PEM file of the authorities that servers called must be certified by, or `system`; empty: "
        "no TLS"
    )  # fmt: skip
    tls_client_cert: str = Field("", description="PEM file of the certificate to show to servers called")
    tls_client_key: str = Field("", description="PEM file of that certificate's private key")
    tls_server_name: str = Field(
        "", description="name that certificates of servers called must carry; empty: the host that was called"
    )


class EngineSettings(ServiceSettings):
    """What both model services take."""

    model: str = Field("", description="folder of the model, or a .gguf file")
    dtype: DTypeName = Field("auto", description="number type of weights and cache; auto: the model's own")
    weights: WeightsName = Field(
        "auto",
        description="plain, or int8 on a CPU; auto: int8 for a draft model whose dtype is auto, plain for a target",
    )
    device: str = Field("auto", description="torch device; auto: cuda where there is one, else cpu")
    threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads of the engine; 0: torch's choice")
    kernels: KernelsName = Field(
        "auto",
        description="what computes a pass: native, the kernels of this package for Llamas in bfloat16 on a CPU, or "
        "torch; auto: native where it can and attention is auto",
    )
    attention: AttentionName = Field(
        "auto", description="attention backend; auto: flash_attn where device, package and model allow it, else sdpa"
    )
    block_size: Annotated[int, Field(ge=0, le=1024)] = Field(
        0, description="tokens in a KV block; 0: 16 with sdpa, 256 with flash_attn"
    )
    num_blocks: Annotated[int, Field(ge=0)] = Field(0, description="KV blocks; 0: from kv_cache_mib")
    kv_cache_mib: Annotated[int, Field(ge=0)] = Field(
        0, description="memory for the KV cache, MiB; 0: on a GPU from memory_fraction, on a CPU from the model"
    )
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9,
        description="share of a GPU's whole memory that this service's weights and KV cache may take; of a GPU that "
        "several services share, give each its part",
    )
    prefix_caching: bool = Field(
        True,
        description="share KV blocks between sequences that begin alike; who may send requests can learn from their "
        "time what others sent before",
    )
    cuda_graphs: bool = Field(
        False, description="replay a draft model's one-token passes as CUDA graphs; needs flash_attn"
    )
    max_len: Annotated[int, Field(ge=0)] = Field(0, description="longest sequence, tokens; 0: the model's own limit")
    self_check: bool = Field(True, description="compare with the stock model at start-up")
    shm_dir: Path = Field(Path("/dev/shm"), description="folder for shared memory, the same for drafter and verifier")  # noqa: S108
    channel_host: str = Field(
        "", description="address that the other model service reaches this one by for tensors; empty: that of --listen"
    )
    max_channel_mib: Annotated[int, Field(ge=1)] = Field(
        4096, description="memory of one tensor channel at most, MiB; a coordinator that asks for more gets none"
    )
    simulate: str = Field(
        "", description="timed sleeps for forward passes, e.g. drafter=5ms,verifier=25ms,accept=0.8[,vocab=256]"
    )


class VerifierSettings(EngineSettings):
    """python -m verifier_service"""

    listen: str = Field("127.0.0.1:50052", description="address to serve on, HOST:PORT; port 0 takes a free one")
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="processes of this machine that the model is split over, each with a GPU of its own, or with "
        "--threads and --kv-cache-mib of its own",
    )
    parallel_timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="with tensor_parallel: a process that the others wait for this long counts as lost"
    )


class DrafterSettings(EngineSettings):
    """python -m drafter_service"""

    listen: str = Field("127.0.0.1:50051", description="address to serve on, HOST:PORT; port 0 takes a free one")
    model: str = Field("ngram", description="folder of the draft model, a .gguf file, or `ngram` for prompt lookup")
    draft_law: DraftLawName = Field(
        "top_m", description="law that drafts of sampled requests are drawn from and sent with"
    )
    top_m: Annotated[int, Field(ge=1, le=1024)] = Field(64, description="tokens kept a position under the law top_m")
    ngram_max: Annotated[int, Field(ge=1, le=16)] = Field(3, description="longest n-gram looked up")
    ngram_min: Annotated[int, Field(ge=1, le=16)] = Field(1, description="shortest n-gram looked up")


class CoordinatorSettings(DialSettings, ServiceSettings):
    """python -m coordinator"""

    listen: str = Field("127.0.0.1:50050", description="address to serve on, HOST:PORT; port 0 takes a free one")
    verifier: str = Field(
        "127.0.0.1:50052",
        description="verifiers, HOST:PORT, separated by commas; dns:NAME:PORT stands for every address of NAME",
    )
    drafter: str = Field("127.0.0.1:50051", description="drafters, written like the verifiers, or `none`")
    discovery_seconds: Annotated[float, Field(gt=0)] = Field(
        5.0, description="pause before names are resolved again; after a lost connection that is done at once"
    )
    timeline_steps: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        4096, description="newest steps of drafters and verifiers to remember for `minedraft trace`; 0: none"
    )
    model_name: str = Field("", description="name that clients may ask for; empty: the target's own")
    lanes: AutoLanes = Field(
        AUTO,
        description="lanes of each verifier; 1 is standard speculative decoding; auto: as many as serve most, measured",
    )
    lane_size: Annotated[int, Field(ge=1, le=1024)] = Field(
        16,
        description="requests in a lane at most; with lanes=auto twice as many run, in any number of lanes",
    )
    queue_size: Annotated[int, Field(ge=0)] = Field(256, description="requests waiting for a lane at most")
    draft_tokens: AutoDraftTokens = Field(
        AUTO,
        description="K, drafts a round at most; 0 is plain decoding; auto: 0 to 8, as serves most tokens, measured",
    )
    prefill_chunk: Annotated[int, Field(ge=1)] = Field(512, description="prompt tokens in one step at most")
    draft_timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        5.0, description="a draft step later than this is not awaited"
    )
    verify_timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        120.0, description="a verify step later than this is a lost peer"
    )
    heartbeat_seconds: Annotated[float, Field(gt=0)] = Field(1.0, description="pause between heartbeats to a peer")
    heartbeat_misses: Annotated[int, Field(ge=1)] = Field(
        5, description="heartbeats unanswered before a peer counts as lost"
    )
    request_timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        600.0, description="a request's time without a deadline of its own"
    )
    channel: ChannelName = Field(
        "auto", description="way for dense draft laws between drafter and verifier; auto: the best that works"
    )
    channel_mib: Annotated[int, Field(ge=1)] = Field(256, description="memory for a tensor channel at most, MiB")
    default_max_new_tokens: Annotated[int, Field(ge=1)] = Field(
        256, description="max_new_tokens of requests that give none"
    )
    max_stop_strings: Annotated[int, Field(ge=0)] = Field(16, description="stop strings a request at most")
    max_logprobs: Annotated[int, Field(ge=0)] = Field(20, description="alternatives a token at most")
    max_prompt_tokens: Annotated[int, Field(ge=0)] = Field(
        0, description="tokens of a prompt at most; 0: what the target can hold"
    )
    token_file: str = Field(
        "", description="file of bearer tokens, one a line, read again when it changes; empty: everyone may ask"
    )
    max_requests_per_client: Annotated[int, Field(ge=0)] = Field(
        0, description="requests that one client may have running or waiting at once; 0: no limit of its own"
    )
    requests_per_minute: Annotated[int, Field(ge=0)] = Field(
        0, description="requests that one client may begin in a minute, evenly after a burst of as many; 0: no limit"
    )

    @property
    def lane_choices(self) -> range:
        """How many lanes may run."""
        return range(1, AUTO_LANES + 1) if self.lanes == AUTO else range(self.lanes, self.lanes + 1)

    @property
    def draft_token_choices(self) -> range:
        """What K may be."""
        fixed = self.draft_tokens
        return range(AUTO_DRAFT_TOKENS + 1) if fixed == AUTO else range(fixed, fixed + 1)

    @property
    def capacity(self) -> int:
        """Requests that run at most."""
        return self.lane_size * (AUTO_FULL_LANES if self.lanes == AUTO else self.lanes)


class HttpSettings(DialSettings, ProcessSettings):
    """python -m minedraft.http"""

    listen: str = Field("127.0.0.1:8000", description="address to serve on, HOST:PORT; port 0 takes a free one")
    coordinator: str = Field("127.0.0.1:50050", description="address of the coordinator, HOST:PORT")
    token_file: str = Field("", description="file whose first token is sent to the coordinator")
    tls_cert: str = Field(
        "", description="PEM file of the door's own certificate chain, read again when it changes: HTTPS; empty: HTTP"
    )
    tls_key: str = Field("", description="PEM file of that certificate's private key")
    model_name: str = Field("", description="name that clients may ask for beside the target's own")
    tokenizer: str = Field(
        "", description="folder with the target's tokenizer.json; without it logprobs name tokens by their ids"
    )
    api_key_file: str = Field(
        "", description="file of API keys, one a line, read again when it changes; empty: everyone may ask"
    )
    max_message_mib: Annotated[int, Field(ge=1, le=64)] = Field(16, description="largest request body, MiB")
    max_choices: Annotated[int, Field(ge=1)] = Field(128, description="choices a request at most: prompts times n")


class HealthSettings(DialSettings):
    """python -m minedraft.health"""

    model_config = SettingsConfigDict(
        env_prefix="MINEDRAFT_", frozen=True, extra="ignore", cli_kebab_case=True, cli_implicit_flags=True
    )

    listen: str = Field(
        "127.0.0.1:50050", description="address that the service listens on, HOST:PORT; one that means every address "
        "is called on loopback"
    )  # fmt: skip
    http: bool = Field(False, description="ask the HTTP door, by GET /health, instead of a gRPC service")
    tls_cert: str = Field("", description="with --http: the certificate that the door shows, PEM; empty: it has none")
    timeout_seconds: Annotated[float, Field(gt=0)] = Field(5.0, description="longest wait for the answer")


class CliSettings(DialSettings):
    """What the command line takes from the environment. Its flags, where it has them, win."""

    model_config = SettingsConfigDict(env_prefix="MINEDRAFT_", frozen=True, extra="ignore")

    home: Path = Field(default=Path("~/.cache/minedraft"), description="folder that fetched models are kept in")
    address: str = Field(default="127.0.0.1:50050", description="address of the server that clients call")
    token_file: str = Field(default="", description="file whose first token is sent to the server")

    @property
    def demo_folder(self) -> Path:
        """Where `minedraft models pull demo` puts the demo model."""
        return self.home.expanduser() / "models" / "smollm2-135m-instruct"


def environment_for_services() -> dict[str, str]:
    """This process's environment without MINEDRAFT_ variables: services started from here are told by flags alone.

    Unless told otherwise, OpenMP's threads spin only briefly before they sleep. By default they spin for milliseconds
    after the last operation of a pass, on cores that the other service needs by then: with both services on two cores
    that took a quarter of the throughput. Sleeping at once is worse still: every operation would wake them.
    """
    told = {name: value for name, value in os.environ.items() if not name.upper().startswith("MINEDRAFT_")}
    return told if OPENMP_SPINS.keys() & told or "OMP_WAIT_POLICY" in told else OPENMP_SPINS | told


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S], program: str, arguments: Sequence[str]) -> S:
    """The settings of one service from its flags and the environment. Raises SetupError that names each mistake."""
    try:
        return kind(_cli_parse_args=list(arguments), _cli_prog_name=program)
    except ValidationError as mistake:
        raise SetupError("; ".join(_line(error["loc"], error["msg"]) for error in mistake.errors())) from None
    except SystemExit as stop:
        sys.exit(stop.code)


def _line(location: tuple[int | str, ...], message: str) -> str:
    flag = "--" + ".".join(map(str, location)).replace("_", "-")
    return f"{flag}: {message.removeprefix('Value error, ')}"
