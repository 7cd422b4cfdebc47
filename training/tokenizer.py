# SPDX-License-Identifier: Apache-2.0
"""A small tokenizer in the format of Llama-2's: BPE over words, `▁` for the space before a word, bytes as fallback."""

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from specprune_ros.openvla.prompt import PROMPT

SPECIAL = ("<unk>", "<s>", "</s>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
SPACE = "▁"
PAD = "</s>"


def empty_token_id(tokenizer: Tokenizer) -> int:
    """Id of the lone `▁`, with which every prompt ends."""
    return int(tokenizer.get_vocab()[SPACE])


def train_tokenizer(instructions: Iterable[str], size: int) -> Tokenizer:
    """At most `size` tokens: the prompt's and the instructions' words are one token each as far as that goes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="always"),
            pre_tokenizers.Split(Regex("[?:]"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[AddedToken(token, special=True) for token in (*SPECIAL, *BYTES)],
        initial_alphabet=[SPACE],
        limit_alphabet=size - len(SPECIAL) - len(BYTES),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_prompts(instructions), trainer)
    return tokenizer


def extended(tokenizer: Tokenizer, instructions: Iterable[str], size: int) -> Tokenizer:
    """The tokenizer with these instructions' words as one token each, too, as far as `size` tokens go.

    Its tokens keep their ids, and words that were one token stay that: the new merges come after all the others.
    """
    content = json.loads(tokenizer.to_str())
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    words = sorted({word for prompt in _prompts(instructions) for word, _ in split(prompt)})
    for character in sorted(set("".join(words)) - set(vocabulary))[: size - len(vocabulary)]:
        vocabulary[character] = len(vocabulary)
    extension = Tokenizer.from_str(json.dumps(content))
    for word in words:
        while len(pieces := [token.value for token in extension.model.tokenize(word)]) > 1 and len(vocabulary) < size:
            merges.append(pieces[:2])
            vocabulary.setdefault("".join(pieces[:2]), len(vocabulary))
            extension = Tokenizer.from_str(json.dumps(content))
    return extension


def _prompts(instructions: Iterable[str]) -> list[str]:
    return [PROMPT.format(instruction=instruction) for instruction in sorted(set(instructions))]
