# SPDX-License-Identifier: Apache-2.0
"""The prompt's token ids, and which of them are the instruction's words."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from release_checkpoint import TINY
from tokenizers import Tokenizer

from specprune_ros.errors import CheckpointError, ObservationError
from specprune_ros.openvla.prompt import PromptTokenizer

SPACE = "▁"
LLAMA_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ],
}


def write_tokenizer(folder, **changes):
    content = json.loads((TINY / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | changes))
    return folder


@pytest.fixture(scope="module")
def llama_like(tmp_path_factory):
    """Spaces as in Llama-2's own tokenizer.json: the normalizer makes them, nothing splits words."""
    folder = tmp_path_factory.mktemp("llama")
    return write_tokenizer(folder, normalizer=LLAMA_NORMALIZER, pre_tokenizer=None)


@pytest.fixture(params=["metaspace", "llama"])
def folder(request, llama_like):
    return TINY if request.param == "metaspace" else llama_like


@pytest.fixture
def tokenizer(folder):
    return PromptTokenizer(folder, 29871)


@pytest.fixture
def vocabulary(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def words(prompt, vocabulary):
    """The text of the instruction's tokens, joined."""
    return vocabulary.decode(list(prompt.token_ids[prompt.instruction]), skip_special_tokens=False).strip()


@pytest.mark.parametrize(
    "kept",
    [
        {"padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}},
        {"truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}},
    ],
    ids=["padding", "truncation"],
)
def test_what_a_training_did_with_its_batches_does_not_matter(tmp_path, kept):
    """The file keeps it, and transformers' own tokenizers switch it off at every call."""
    if "padding" in kept:
        kept["padding"] |= {"pad_type_id": 0, "pad_token": "<PAD>"}
    tokenizer = PromptTokenizer(write_tokenizer(tmp_path, **kept), 29871)
    assert tokenizer("pick up the bowl") == PromptTokenizer(TINY, 29871)("pick up the bowl")


def test_a_llama_like_tokenizer_of_another_model(tmp_path):
    """Mistral's has <s> and </s> too, and another token where Llama-2 has its empty one."""
    content = json.loads((TINY / "tokenizer.json").read_text())
    word = {"id": 29871, "content": "\u9f8d", "special": False, "normalized": False}
    added = [*content["added_tokens"], word | {"single_word": False, "lstrip": False, "rstrip": False}]
    size = len(content["model"]["vocab"])
    vocabulary = content["model"]["vocab"] | {f"word{i}": i for i in range(size, 29871)}
    model = content["model"] | {"vocab": vocabulary}
    with pytest.raises(CheckpointError, match="of id 29871 instead of Llama-2's"):
        PromptTokenizer(write_tokenizer(tmp_path, model=model, added_tokens=added), 29871)


def test_prompt_starts_with_bos_and_ends_with_the_empty_token(tokenizer):
    token_ids = tokenizer("pick up the bowl").token_ids
    assert token_ids[0] == tokenizer.bos_id == 1
    assert token_ids[-1] == 29871
    assert token_ids.count(29871) == 1
    assert tokenizer.eos_id == 2


def test_text_between_is_the_training_prompt(tokenizer, vocabulary):
    text = vocabulary.decode(list(tokenizer("Pick up the Bowl").token_ids[1:-1]))
    # The tiny tokenizer has no newline of its own and writes a space before it.
    assert text.replace(" \n", "\n").replace("\n ", "\n") == (
        "In: What action should the robot take to pick up the bowl?\nOut:"
    )


def test_empty_token_is_not_appended_twice(folder, vocabulary):
    last = vocabulary.token_to_id(":")
    assert PromptTokenizer(folder, last)("push").token_ids[-1] == last
    assert (
        len(PromptTokenizer(folder, last)("push").token_ids)
        == len(PromptTokenizer(folder, 29871)("push").token_ids) - 1
    )


@pytest.mark.parametrize(
    "instruction",
    ["pick up the black bowl", "push", "put the bowl on the plate, then close the drawer", "stack 2 cups"],
)
def test_instruction_slice_holds_the_words(tokenizer, vocabulary, instruction):
    assert words(tokenizer(instruction), vocabulary) == instruction


@pytest.mark.parametrize("instruction", ["robot", "action", "a", "take", "in", "to", "the robot", "what action", "out"])
def test_words_that_the_prompt_has_too_are_not_mistaken_for_it(tokenizer, vocabulary, instruction):
    prompt = tokenizer(instruction)
    assert words(prompt, vocabulary) == instruction
    before = words(type(prompt)(prompt.token_ids, slice(1, prompt.instruction.start)), vocabulary)
    assert before.endswith("robot take to")


def test_case_and_outer_spaces_do_not_matter(tokenizer):
    assert tokenizer("  Pick UP the bowl\n") == tokenizer("pick up the bowl")


def test_bytes_of_unknown_characters_are_part_of_the_instruction(tokenizer, vocabulary):
    prompt = tokenizer("pick 日 up")
    pieces = [vocabulary.id_to_token(i) for i in prompt.token_ids[prompt.instruction]]
    assert [piece for piece in pieces if piece.startswith("<0x")] == ["<0xE6>", "<0x97>", "<0xA5>"]
    assert words(prompt, vocabulary) == "pick 日 up"


def test_both_tokenizer_layouts_give_the_same_words(llama_like):
    ours, llama = (PromptTokenizer(folder, 29871)("pick up the black bowl") for folder in (TINY, llama_like))
    assert ours.instruction.start == llama.instruction.start
    assert ours.token_ids[ours.instruction] == llama.token_ids[llama.instruction]


@given(instruction=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
def test_any_text_is_tokenised_and_has_words(llama_like, instruction):
    for folder in (TINY, llama_like):
        tokenizer = PromptTokenizer(folder, 29871)
        if not instruction.strip():
            with pytest.raises(ObservationError):
                tokenizer(instruction)
            continue
        prompt = tokenizer(instruction)
        # "In: What action should the robot take to" is in front, "?\nOut:" and the empty token behind.
        assert 8 <= prompt.instruction.start < prompt.instruction.stop <= len(prompt.token_ids) - 4
        assert prompt.shape == (len(prompt.token_ids), prompt.instruction.start, prompt.instruction.stop)


@pytest.mark.parametrize("instruction", ["", "   ", "\n\t"])
def test_empty_instruction_is_refused_in_one_line(tokenizer, instruction):
    with pytest.raises(ObservationError, match="instruction is empty") as error:
        tokenizer(instruction)
    assert "\n" not in str(error.value)


def test_instruction_that_is_far_too_long_is_refused(tokenizer):
    assert len(tokenizer("pick up " * 100).token_ids) < 512
    with pytest.raises(ObservationError, match="say it shorter, 512 are allowed"):
        tokenizer("pick up " * 1000)


def test_missing_tokenizer_says_how_to_write_it(tmp_path):
    with pytest.raises(CheckpointError, match="save_pretrained"):
        PromptTokenizer(tmp_path, 29871)


@pytest.mark.parametrize("content", ["<!DOCTYPE html>", "{}", '{"model": {}}', ""])
def test_file_that_is_no_tokenizer(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    remedy = {"<!DOCTYPE html>": "download the file itself", "": "is empty"}.get(content, "not a tokenizer file")
    with pytest.raises(CheckpointError, match=remedy) as error:
        PromptTokenizer(tmp_path, 29871)
    assert "\n" not in str(error.value)


def test_tokenizer_of_another_model(tmp_path):
    content = json.loads((TINY / "tokenizer.json").read_text())
    content["added_tokens"] = []
    content["model"]["vocab"] = {"[CLS]": 0, "a": 1}
    content["model"] |= {"merges": [], "unk_token": None}
    content["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="not the tokenizer of an OpenVLA checkpoint"):
        PromptTokenizer(tmp_path, 29871)
