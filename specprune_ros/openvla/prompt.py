# SPDX-License-Identifier: Apache-2.0
"""The prompt, its tokens, and which of them are the words of the instruction."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from specprune_ros.errors import CheckpointError, ObservationError
from specprune_ros.openvla.config import EMPTY_TOKEN_ID
from specprune_ros.openvla.files import exists, trouble

PROMPT = "In: What action should the robot take to {instruction}?\nOut:"
INSTRUCTION_START = PROMPT.index("{instruction}")
EMPTY_TOKEN = "▁"  # at EMPTY_TOKEN_ID in Llama-2's tokenizer
MAX_TOKENS = 512  # of a prompt; training prompts have about 30, and time and memory grow with the length


@dataclass(frozen=True)
class Prompt:
    """Token ids of one prompt, BOS first, and the slice of them that holds the instruction's words."""

    token_ids: tuple[int, ...]
    instruction: slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """What fixed-shape code depends on: number of tokens, and where the instruction starts and ends."""
        return len(self.token_ids), self.instruction.start, self.instruction.stop


class PromptTokenizer:
    """Turns an instruction into the token ids that the checkpoint was trained with."""

    def __init__(self, checkpoint: Path, empty_token_id: int):
        path = checkpoint / "tokenizer.json"
        if not exists(path):
            raise CheckpointError(
                f"{path} is missing; copy it, or write it from tokenizer.model with "
                "transformers.AutoTokenizer.from_pretrained(folder, use_fast=True).save_pretrained(folder)"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises bare Exception
            wrong = trouble(path) or f"is not a tokenizer file ({' '.join(str(error).split())}); copy the file again"
            raise CheckpointError(f"{path} {wrong}") from None
        self._tokenizer.no_padding()  # the file keeps what a training's collator did with its batches
        self._tokenizer.no_truncation()
        self._empty_token_id = empty_token_id
        bos_id, eos_id = (self._tokenizer.token_to_id(token) for token in ("<s>", "</s>"))
        if bos_id is None or eos_id is None:
            raise CheckpointError(f"{path} has no <s> or </s> token; it is not the tokenizer of an OpenVLA checkpoint")
        empty = self._tokenizer.id_to_token(EMPTY_TOKEN_ID)
        if empty_token_id == EMPTY_TOKEN_ID and empty not in (None, EMPTY_TOKEN):
            raise CheckpointError(
                f"{path} has token {empty!r} of id {EMPTY_TOKEN_ID} instead of Llama-2's {EMPTY_TOKEN!r}; it is "
                "another model's: copy this checkpoint's tokenizer.json"
            )
        self.bos_id: int = bos_id
        self.eos_id: int = eos_id
        self.max_token_id = max(empty_token_id, *self._tokenizer.get_vocab().values())

    def __call__(self, instruction: str) -> Prompt:
        """Tokenise an instruction. Raises ObservationError when it is empty or far too long."""
        if not isinstance(instruction, str):
            raise ObservationError(f"the instruction is a {type(instruction).__name__}; give a str in words")
        try:
            words = instruction.encode().decode().strip().lower()
        except UnicodeEncodeError:
            raise ObservationError("the instruction holds half a character (a surrogate); give plain text") from None
        if not words:
            raise ObservationError(
                "the instruction is empty; say what the robot should do, for example 'pick up the bowl'"
            )
        text = PROMPT.format(instruction=words)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        token_ids = [self.bos_id, *encoding.ids]
        if token_ids[-1] != self._empty_token_id:
            token_ids.append(self._empty_token_id)
        if len(token_ids) > MAX_TOKENS:
            raise ObservationError(
                f"the instruction makes a prompt of {len(token_ids)} tokens; say it shorter, {MAX_TOKENS} are allowed"
            )

        # Offsets are characters of `text`; a word's token starts at the space before it.
        end = INSTRUCTION_START + len(words)
        inside = [i for i, (a, b) in enumerate(encoding.offsets, start=1) if a < end and b > INSTRUCTION_START]
        return Prompt(tuple(token_ids), slice(inside[0], inside[-1] + 1))
