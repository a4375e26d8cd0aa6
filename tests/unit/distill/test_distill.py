"""The parts of the recipe for drafters, on tiny models. `tests/e2e/test_distill.py` runs the whole."""

from __future__ import annotations

import gzip
import json
import lzma
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import torch as safetensors_torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from minedraft.distill import corpus, shipping, teacher
from minedraft.distill.corpus import Sample
from minedraft.distill.prompts import built_in, read_prompts
from minedraft.distill.student import Student
from minedraft.distill.teacher import Lesson, Teacher
from minedraft.distill.training import (
    LAST,
    LIKELIHOOD,
    SHARPNESS,
    Training,
    TrainingOptions,
    batches,
    likelihood_slopes,
    overlap_slopes,
    schedule,
)
from minedraft.distill.vocabulary import coverage, frequent
from minedraft.errors import SetupError
from minedraft.model.draft_vocabulary import known_tokens, widen
from minedraft.model.loader import load
from tests.models import tiny_llama
from tests.unit.engine.test_architectures import stock

VOCAB = 300


def sample(number: int, length: int = 12) -> Sample:
    dice = random.Random(number)
    tokens = [dice.randrange(4, VOCAB) for _ in range(length + 3)]
    return Sample(f"p{number}", 0.0, tuple(tokens[:3]), tuple(tokens[3:]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("target") / "target", layers=4, dtype="float32")


@pytest.fixture(scope="module")
def target(folder: Path) -> PreTrainedModel:
    return load(folder)


def taught(target: PreTrainedModel, count: int) -> list[Lesson]:
    samples = [sample(number, 4 + number % 9) for number in range(count)]
    return [Lesson(*pair) for pair in zip(samples, Teacher(target).hidden(samples), strict=True)]


def training(target: PreTrainedModel, folder: Path, **options: Any) -> Training:
    torch.manual_seed(0)
    lessons = taught(target, 40)
    student = Student(target, (0, -1), torch.arange(0, VOCAB, 2))
    asked = TrainingOptions(**({"tokens": 1200, "batch_tokens": 64} | options))
    head: Any = target.get_output_embeddings
    return Training(student, head().weight, lessons[8:], lessons[:8], asked, folder)


def silent(*_: object) -> None:
    return None


def test_corpora_are_read_plain_and_zipped(tmp_path: Path) -> None:
    plain, zipped = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    for number in range(3):
        corpus.append(plain, sample(number))
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(corpus.read(plain)) == list(corpus.read(zipped)) == [sample(number) for number in range(3)]
    with plain.open("a") as out:
        out.write(json.dumps({"prompt": "x"}) + "\n")
    with pytest.raises(SetupError, match=r"line 4 is no sample"):
        list(corpus.read(plain))


def test_prompts(tmp_path: Path) -> None:
    stream = built_in(3)
    first = [next(stream) for _ in range(500)]
    again = built_in(3)
    assert first == [next(again) for _ in range(500)]
    assert len(set(first)) > 450  # forms with two subjects or none may repeat
    assert not any("{" in prompt for prompt in first)
    file = tmp_path / "prompts"
    file.write_text('{"prompt": "a"}\nplain words\n\n')
    assert read_prompts(file) == ["a", "plain words"]
    file.write_text("")
    with pytest.raises(SetupError, match="holds no prompts"):
        read_prompts(file)


def test_what_the_teacher_remembers_gives_its_laws(target: PreTrainedModel) -> None:
    """Padding beside longer samples changes nothing."""
    samples = [sample(1, 5), sample(2, 17)]
    head: Any = target.get_output_embeddings
    module: Any = target
    for one, hidden in zip(samples, Teacher(target).hidden(samples), strict=True):
        alone = module(input_ids=torch.tensor([one.token_ids[:-1]])).logits[0, len(one.prompt_ids) - 1 :]
        law = (hidden.float() @ head().weight.T).softmax(dim=1)
        assert (law - alone.softmax(dim=1)).abs().max() < 0.02  # bfloat16


def test_a_model_that_does_more_to_its_logits_is_refused() -> None:
    with pytest.raises(SetupError, match="does more to its logits"):
        Teacher(stock("cohere", logit_scale=0.1))


def test_shards_are_written_once(target: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "SHARD", 4)
    samples, teaching = [sample(number) for number in range(10)], Teacher(target)
    tokens: list[int] = []
    teacher.teach(teaching, samples[:6], tmp_path, tokens.append)
    first = (tmp_path / "00000.safetensors").stat().st_mtime_ns
    teacher.teach(teaching, samples, tmp_path, tokens.append)  # the second shard grew, the first is as it was
    assert (tmp_path / "00000.safetensors").stat().st_mtime_ns == first
    found = teacher.lessons(samples, tmp_path)
    assert [lesson.sample for lesson in found] == samples
    for lesson, hidden in zip(found, teaching.hidden(samples), strict=True):
        torch.testing.assert_close(lesson.hidden, hidden)
    assert sum(tokens) == 12 * 16


def test_frequent_tokens() -> None:
    samples = [Sample("", 0.0, (9, 9, 9), (5, 5, 7, 5, 200))]
    found = frequent(samples, 5, VOCAB, [299])
    assert found.tolist() == [5, 7, 9, 200, 299]
    assert frequent(samples, 7, VOCAB, [299]).tolist() == [0, 1, 5, 7, 9, 200, 299]
    assert coverage(samples, torch.tensor([5, 7])) == 0.8


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(16, 128))
def test_batches_have_every_lesson_once(lengths: list[int], room: int) -> None:
    lessons = [Lesson(sample(i, length), torch.zeros(length, 1)) for i, length in enumerate(lengths)]
    found = list(batches(lessons, room, random.Random(0)))
    assert sorted(id(lesson) for batch in found for lesson in batch) == sorted(map(id, lessons))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(len(lesson.sample.token_ids) for lesson in batch) <= room


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [schedule(step / 1000) for step in range(1001)]
    assert rates[0] > 0
    assert max(rates) == 1
    assert rates[-1] == LAST
    peak = rates.index(1.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_the_written_gradient_is_that_of_the_loss(target: PreTrainedModel, tmp_path: Path) -> None:
    run = training(target, tmp_path)
    batch = run._taught[:4]
    run._learn(batch)
    found = {name: weight.grad.clone() for name, weight in run.student.trained().items() if weight.grad is not None}
    assert set(found) == set(run.student.trained())
    run.student.zero_grad()
    logits = run._hidden(batch) @ run.student.head.weight.bfloat16().T
    loss = -(run._law(batch, 1.0) * logits.float().log_softmax(dim=1)).sum(dim=1).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    for name, weight in run.student.trained().items():
        assert weight.grad is not None
        assert float((found[name] - weight.grad).norm() / weight.grad.norm()) < 0.03, name  # bfloat16


@pytest.mark.parametrize("kind", ["likelihood", "overlap"])
def test_slopes_are_the_gradients_of_the_loss(kind: str) -> None:
    torch.manual_seed(3)
    logits = (3 * torch.randn(5, 30)).requires_grad_()
    p = (3 * torch.randn(5, 30)).softmax(dim=1)
    if kind == "likelihood":
        expected = -(p * logits.log_softmax(dim=1)).sum(dim=1).mean()
        loss, slopes = likelihood_slopes(logits.detach(), p)
    else:
        q = (logits / 0.8).softmax(dim=1)
        expected = -(torch.minimum(p, q) + LIKELIHOOD * p * q.log()).sum(dim=1).mean()
        loss, slopes = overlap_slopes(logits.detach(), p, 0.8)
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert logits.grad is not None
    torch.testing.assert_close(slopes, logits.grad, rtol=1e-4, atol=1e-7)


def test_the_last_part_of_the_training_is_for_the_overlap(target: PreTrainedModel, tmp_path: Path) -> None:
    run = training(target, tmp_path, tokens=6000, overlap_from=0.5)
    run.run(3000, silent)
    losses: list[float] = []
    run.run(6000, lambda _, loss: losses.append(loss))
    assert sum(losses[-20:]) < sum(losses[:20])


def test_training_learns_and_resumes_where_it_stopped(target: PreTrainedModel, tmp_path: Path) -> None:
    straight = training(target, tmp_path / "straight")
    before = straight.score()
    straight.run(1200, silent)
    after = straight.score()
    assert after.loss < before.loss

    training(target, tmp_path / "halves").save()
    halves = training(target, tmp_path / "halves")
    halves.run(600, silent)
    halves.save()
    resumed = training(target, tmp_path / "halves")
    assert resumed.resume()
    assert resumed.seen == halves.seen
    resumed.run(1200, silent)
    for name, weight in straight.student.trained().items():
        torch.testing.assert_close(resumed.student.trained()[name], weight, rtol=1e-4, atol=1e-5)
    other = training(target, tmp_path / "halves", tokens=1300)
    assert not other.resume()  # other options, another run


def test_an_exported_student_is_served(target: PreTrainedModel, folder: Path, tmp_path: Path) -> None:
    student = Student(target, (0, -1), torch.arange(0, VOCAB, 2))
    student.export(tmp_path / "made", folder)
    loaded: Any = load(tmp_path / "made", dtype="float32")
    known = known_tokens(loaded)
    assert known is not None
    token_ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        ours = student.head(student.hidden(token_ids))[0]
        theirs = loaded(input_ids=token_ids).logits[0]
    assert (ours.softmax(dim=1) - theirs.softmax(dim=1)).abs().max() < 0.02  # bfloat16 weights
    assert widen(theirs, known, VOCAB).shape == (4, VOCAB)


@pytest.mark.parametrize("layers", [(), (0, 4), (-5,)])
def test_layers_that_the_target_has_not(target: PreTrainedModel, layers: tuple[int, ...]) -> None:
    with pytest.raises(SetupError, match="the target has layers 0 to 3"):
        Student(target, layers, torch.arange(10))


def test_shipping_leaves_out_what_the_target_has(target: PreTrainedModel, folder: Path, tmp_path: Path) -> None:
    Student(target, (0,), torch.arange(0, VOCAB, 2)).export(tmp_path / "made", folder)
    shipping.strip(tmp_path / "made", tmp_path / "shipped")
    assert not (tmp_path / "shipped" / "tokenizer.json").exists()
    shipped = safetensors_torch.load(lzma.decompress((tmp_path / "shipped" / shipping.PACKED).read_bytes()))
    assert "model.embed_tokens.weight" not in shipped
    assert all(weight.dtype is torch.int8 for weight in shipped.values() if weight.dim() == 2)
    shipping.complete(tmp_path / "shipped", folder, tmp_path / "completed")
    whole, again = (load_file(tmp_path / name / "model.safetensors") for name in ("made", "completed"))
    assert set(whole) == set(again)
    for name, weight in whole.items():
        if weight.dim() == 2 and "embed" not in name:
            step = weight.float().abs().amax(dim=1, keepdim=True) / shipping.LARGEST
            assert bool(((again[name].float() - weight.float()).abs() <= step).all()), name  # half a step, and bfloat16
        else:
            assert torch.equal(again[name], weight), name
    assert {path.name for path in (tmp_path / "completed").iterdir()} >= {"config.json", "tokenizer.json"}


@pytest.mark.parametrize("flattened", [1.0, 0.6])
def test_the_sharpness_is_the_one_whose_drafts_are_kept_most(
    target: PreTrainedModel, tmp_path: Path, flattened: float
) -> None:
    run = training(target, tmp_path)
    run.student.sharpen(flattened)

    @torch.no_grad()
    def overlap(factor: float) -> float:
        rows = torch.cat([lesson.hidden for lesson in run._kept]) @ run._known_rows.T
        p = (rows.float() / 0.8).softmax(dim=1)
        run.student.sharpen(factor)
        q = (run._hidden(run._kept) @ run.student.head.weight.bfloat16().T).float().div(0.8).softmax(dim=1)
        run.student.sharpen(1 / factor)
        return float(torch.minimum(p, q).sum())

    found = run.sharpness()
    assert found in SHARPNESS
    assert overlap(found) >= 0.995 * max(overlap(factor) for factor in SHARPNESS)  # bfloat16


def test_a_cooler_target_is_a_surer_one(target: PreTrainedModel, tmp_path: Path) -> None:
    run = training(target, tmp_path)
    squared = run._law(run._kept, 1.0) ** 2
    torch.testing.assert_close(run._law(run._kept, 0.5), squared / squared.sum(dim=1, keepdim=True))
