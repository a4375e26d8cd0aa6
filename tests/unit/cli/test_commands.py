"""`generate`, `chat` and the root command, against a real loopback server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import grpc
import pytest
from typer.testing import CliRunner, Result

import minedraft
from minedraft.cli.chat import Conversation
from minedraft.cli.main import app
from minedraft.client import Client
from minedraft.generation import Chat, ChatMessage, GenerateRequest, Text
from minedraft.types import SamplingParams
from tests.unit.cli.fake_server import FakeService, Serving, serving

COMMANDS = ["up", "generate", "chat", "bench", "demo", "models pull"]


def invoke(*arguments: str, stdin: str | None = None, **environment: str) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin, env={"COLUMNS": "200", **environment})


@pytest.fixture
def here() -> Iterator[Serving]:
    with serving() as running:
        yield running


class TestRoot:
    def test_version(self) -> None:
        assert invoke("--version").stdout == f"{minedraft.__version__}\n"

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_shows_an_example(self, command: str) -> None:
        result = invoke(*command.split(), "--help")
        assert result.exit_code == 0
        assert f"Example: minedraft {command.split(maxsplit=1)[0]}" in result.stdout or command == "models pull"
        assert "Example: " in result.stdout

    def test_an_unknown_option_is_a_mistake_in_the_setup(self) -> None:
        assert invoke("generate", "Hi", "--no-such-option").exit_code == 2

    def test_a_failed_call_is_one_line_and_exit_code_1(self) -> None:
        result = invoke("generate", "Hi", "--address", "127.0.0.1:9")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr == "minedraft: no server can be reached at 127.0.0.1:9\n"

    def test_a_wrong_setup_is_one_line_and_exit_code_2(self) -> None:
        result = invoke("models", "pull", "gpt-17")
        assert result.exit_code == 2
        assert result.stderr.startswith("minedraft: no model is called 'gpt-17'")
        assert result.stderr.count("\n") == 1


class TestGenerate:
    def test_streams_text(self, here: Serving) -> None:
        result = invoke("generate", "Hi", "--address", here.address)
        assert result.exit_code == 0
        assert result.stdout == "Hello world\n"
        assert here.service.requests[0].prompt == Chat((ChatMessage("user", "Hi"),))

    def test_json_is_exactly_one_object(self, here: Serving) -> None:
        result = invoke("generate", "Hi", "--json", "--address", here.address)
        fields = json.loads(result.stdout)
        assert set(fields) == {
            "text", "token_ids", "finish_reason", "prompt_tokens", "completion_tokens", "acceptance_length", "ttft_ms",
            "tokens_per_second",
        }  # fmt: skip
        assert fields["text"] == "Hello world"
        assert fields["token_ids"] == [11, 12, 2]
        assert fields["finish_reason"] == "eos"
        assert (fields["prompt_tokens"], fields["completion_tokens"]) == (5, 3)
        assert fields["acceptance_length"] == 1.5
        assert fields["ttft_ms"] > 0
        assert fields["tokens_per_second"] > 0

    def test_options_reach_the_server(self, here: Serving) -> None:
        given = (
            "--raw --max-new-tokens 9 --temperature 0.25 --top-p 0.5 --top-k 4 --min-p 0.125 --seed 6 --stop a --stop b"
        )
        result = invoke("generate", "Hi", *given.split(), "--max-draft-tokens", "0", "--address", here.address)
        assert result.exit_code == 0
        sampling = SamplingParams(
            temperature=0.25, top_p=0.5, top_k=4, min_p=0.125, seed=6, stop=("a", "b"), max_new_tokens=9
        )
        assert here.service.requests == [
            GenerateRequest(Text("Hi"), sampling, request_id="", max_draft_tokens=0),
        ]

    def test_logprobs(self, here: Serving) -> None:
        result = invoke("generate", "Hi", "--json", "--logprobs", "2", "--address", here.address)
        logprobs = json.loads(result.stdout)["logprobs"]
        assert [entry["token_id"] for entry in logprobs] == [11, 12, 2]
        assert logprobs[0]["top"][1] == {"token_id": 9, "logprob": -2.0}
        shown = invoke("generate", "Hi", "--logprobs", "2", "--address", here.address).stdout.splitlines()
        assert shown[0] == "Hello world"
        assert shown[1].split() == ["11", "-0.5000", "11:-0.5000", "9:-2.0000"]

    def test_prompt_from_stdin_address_from_the_environment(self, here: Serving) -> None:
        result = invoke("generate", "-", "--system", "Be brief.", stdin="From afar", MINEDRAFT_ADDRESS=here.address)
        assert result.exit_code == 0
        turns = (ChatMessage("system", "Be brief."), ChatMessage("user", "From afar"))
        assert here.service.requests[0].prompt == Chat(turns)

    def test_every_flag_has_a_variable(self, here: Serving) -> None:
        result = invoke(
            "generate", "Hi", MINEDRAFT_GENERATE_MAX_NEW_TOKENS="3", MINEDRAFT_GENERATE_ADDRESS=here.address
        )
        assert result.exit_code == 0
        assert here.service.requests[0].sampling.max_new_tokens == 3

    def test_a_refusal_names_the_field(self) -> None:
        refusal = (grpc.StatusCode.INVALID_ARGUMENT, "sampling.top_p: must be above 0")
        with serving(FakeService(refusal=refusal)) as here:
            result = invoke("generate", "Hi", "--address", here.address)
        assert (result.exit_code, result.stderr) == (1, "minedraft: sampling.top_p: must be above 0\n")


def turns(service: FakeService, request: int) -> list[tuple[str, str]]:
    prompt = service.requests[request].prompt
    assert isinstance(prompt, Chat)
    return [(turn.role, turn.content) for turn in prompt.messages]


class TestChat:
    def test_history_and_reset(self, here: Serving) -> None:
        said = "one\n\ntwo\n/reset\nthree\n"
        result = invoke("chat", "--system", "S", "--address", here.address, stdin=said)
        assert result.exit_code == 0
        assert result.stdout == "Hello world\n" * 3
        system, answer = ("system", "S"), ("assistant", "Hello world")
        assert turns(here.service, 0) == [system, ("user", "one")]
        assert turns(here.service, 1) == [system, ("user", "one"), answer, ("user", "two")]
        assert turns(here.service, 2) == [system, ("user", "three")]

    def test_an_error_leaves_the_conversation_as_it_was(self) -> None:
        service = FakeService(refusal=(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full"), refuse_from=1)
        with serving(service) as here:
            result = invoke("chat", "--address", here.address, stdin="one\ntwo\nthree\n")
        assert result.exit_code == 0
        assert result.stderr.count("the queue is full") == 2
        assert turns(service, 2) == [("user", "one"), ("assistant", "Hello world"), ("user", "three")]

    def test_ctrl_c_stops_the_answer_and_keeps_what_came(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shown: list[str] = []

        def show(text: str) -> None:
            if len(shown) == 3:
                shown.append(text)
                raise KeyboardInterrupt
            shown.append(text)

        monkeypatch.setattr("minedraft.cli.chat.write_text", show)
        with serving(FakeService(endless=True)) as here, Client(here.address) as client:
            talk = Conversation(client, SamplingParams())
            talk.ask("one")
            assert here.service.cancelled.wait(5)
        assert talk.turns == [ChatMessage("user", "one"), ChatMessage("assistant", "Hello!!!")]
        assert shown[-2:] == [" [stopped]", "\n"]
