# SPDX-License-Identifier: Apache-2.0
"""Advice on an instruction: what differs from how training data words them."""

import re
from collections.abc import Collection

from specprune_ros.checks import FAIL, PASS, WARN, Check
from specprune_ros.errors import ObservationError
from specprune_ros.openvla.prompt import PromptTokenizer

LONG = 40  # tokens of an instruction; LIBERO's longest have about 30


def instruction_advice(instruction: str, tokenizer: PromptTokenizer | None, seen: Collection[str] = ()) -> list[str]:
    """What to change, a line each. `seen`: the instructions of the training data, when they are known.

    Capitals and outer spaces are no fault: the prompt is written in lower case, as in training.
    """
    words = instruction.strip()
    found = []
    if re.search(r"[.!?;:,]$", words):
        found.append(f"ends with '{words[-1]}', which training data has not: the prompt adds its own '?'; leave it out")
    if re.search(r"\s\s|[\n\t]", words):
        found.append("has double spaces or line breaks; write single spaces")
    if words[:1] in "\"'“‘«" and words[:1]:
        found.append("is in quotes; leave them out")
    if not words.isascii():
        odd = sorted({character for character in words if not character.isascii()})
        found.append(f"has characters that English training data has not: {' '.join(odd[:5])}; write plain English")
    if tokenizer and words:
        prompt = tokenizer(words)
        length = prompt.instruction.stop - prompt.instruction.start
        if length > LONG:
            found.append(f"is {length} tokens long; training data has about 10 to 30: say one thing at a time")
    known = {word for text in seen for word in _words(text)}
    unseen = [word for word in _words(words) if word not in known] if known else []
    if unseen:
        found.append(f"has words that the training data never had ({', '.join(dict.fromkeys(unseen))}); use its own")
    return found


def check_instruction(instruction: str, tokenizer: PromptTokenizer | None, seen: Collection[str] = ()) -> list[Check]:
    """A row for each piece of advice, one that passes when there is none, none without an instruction."""
    if not instruction.strip():
        return []
    try:
        advice = instruction_advice(instruction, tokenizer, seen)
    except ObservationError as error:
        return [Check("instruction", FAIL, str(error))]
    if advice:
        return [Check("instruction", WARN, f"'{_short(instruction)}' {line}") for line in advice]
    known = f", every word is in the {len(set(seen))} instructions of the data" if seen else ""
    return [Check("instruction", PASS, f"'{_short(instruction.strip().lower())}'{known}")]


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
