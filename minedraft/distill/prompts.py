"""Things to ask a target, when nothing better is at hand: forms times subjects, in an order that a seed fixes.

A drafter is best trained on the prompts that its users will send; `minedraft distill --prompts` takes a file of those.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from minedraft.errors import SetupError

SUBJECTS: Final = """
volcanoes; jazz; coffee; chess; black holes; whales; the printing press; yoga; democracy; inflation;
honey bees; the Silk Road; glaciers; robots; bread; the moon; earthquakes; sleep; memory; electric cars;
dinosaurs; antibiotics; poetry; mountains; coral reefs; gardening; cycling; marathons; budgets; job interviews;
public speaking; time zones; bridges; castles; telescopes; lasers; magnets; batteries; wind turbines;
steam engines; submarines; satellites; Mars; gravity; friction; atoms; metals; paper; silk; chocolate; cheese;
rice; soup; spices; tea; camping; hiking; fishing; football; tennis; board games; cinema; theatre; painting;
photography; pottery; museums; exams; grammar; novels; newspapers; radio; the internet; computers; databases;
encryption; version control; spreadsheets; statistics; geometry; prime numbers; fractions; logic; ethics;
friendship; parenting; exercise; vitamins; the heart; the brain; vaccines; viruses; allergies; stress; dreams;
courage; leadership; negotiation; advertising; banks; taxes; insurance; elections; courts; human rights;
Canada; Japan; Brazil; Kenya; Egypt; Rome; deserts; oceans; rivers; forests; weather; hurricanes; autumn;
wolves; penguins; owls; sharks; spiders; ants; cats; dogs; horses; trees; mushrooms; wheat; tomatoes;
recycling; trains; airports; holidays; weddings; the piano; the guitar; singing; calendars; the Middle Ages;
Vikings; pirates; ancient Greece; explorers; inventors; evolution; genetics; fossils; space travel; dragons;
remote work; meetings; habits; goals; cleaning
"""
FORMS: Final = (
    "Explain {} to a ten-year-old.",
    "What should everybody know about {}?",
    "Write a short story that has to do with {}.",
    "Write a poem about {}.",
    "List seven facts about {}.",
    "What are common mistakes with {}, and how does one avoid them?",
    "Compare {} and {}.",
    "Write an e-mail to a colleague about {}.",
    "Give me a table of contents for a book on {}.",
    "Write a dialogue between a teacher and a student about {}.",
    "Summarise the history of {} in one paragraph.",
    "I am new to {}. Where do I begin?",
    "Write five quiz questions with answers about {}.",
    "Rewrite this more politely: I do not care about {} and neither should you!",
    "Correct the mistakes in this sentence: my freind dont likes {} becaus it are boring.",
    "Translate into plain language: the aforementioned particulars pertaining to {} shall be duly taken into account.",
    "Is it true that {} will matter less in fifty years? Give reasons for both sides.",
    "Write a Python function that prints a list of words to do with {}.",
    "Write a Python class for a small program about {}, with an example of its use.",
    "Write a JavaScript function that filters a list of objects about {} by year.",
    "If 12 people each buy 3 books about {} at 8 dollars apiece, what do they pay together? Show each step.",
    "Give step-by-step instructions for a poster about {}.",
    "Write an advertisement for a course on {}.",
    "What would happen if there were no {}?",
)


def built_in(seed: int) -> Iterator[str]:
    """Prompts without end; none comes twice before all pairs of form and subject are used up."""
    dice = random.Random(seed)
    subjects = [subject.strip() for subject in SUBJECTS.split(";")]
    while True:
        pairs = [(form, subject) for form in FORMS for subject in subjects]
        dice.shuffle(pairs)
        for form, subject in pairs:
            yield form.format(subject, dice.choice(subjects))


def read_prompts(path: Path) -> list[str]:
    """One prompt a line: JSON objects with `prompt`, or plain text. Raises SetupError when there is none."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        prompts = [str(json.loads(line)["prompt"]) if line.startswith("{") else line for line in lines]
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"{path} holds no prompts: {error}") from None
    if not prompts:
        raise SetupError(f"{path} holds no prompts")
    return prompts
