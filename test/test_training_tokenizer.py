# SPDX-License-Identifier: Apache-2.0
"""The small tokenizer, and how it learns further words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specprune_ros.openvla.prompt import PROMPT
from training.tokenizer import extended, train_tokenizer

OLD = ("pick up the black bowl and place it on the plate", "put the bowl on the stove")
NEW = ("pick up the alphabet soup and place it in the basket", "put the quince in the jar")


@pytest.fixture(scope="module")
def old():
    return train_tokenizer(OLD, 512)


def words(tokenizer, instruction):
    return tokenizer.encode(PROMPT.format(instruction=instruction)).tokens


def test_an_extended_tokenizer_has_the_words_and_reads_all_old_ones_as_before(old):
    new = extended(old, NEW, 512)
    assert len(words(old, NEW[0])) > len(words(new, NEW[0]))
    for instruction in (*OLD, *NEW):
        assert [f"▁{word}" for word in instruction.split()] == words(new, instruction)[9:-4]
    for instruction in OLD:
        assert old.encode(instruction).ids == new.encode(instruction).ids
    vocabulary = new.get_vocab()
    assert old.get_vocab().items() <= vocabulary.items()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))


def test_nothing_new_changes_nothing(old):
    assert extended(old, OLD, 512).to_str() == old.to_str()


@given(st.lists(st.text("abcdefghij ", min_size=1, max_size=20), max_size=5), st.integers(300, 520))
def test_whatever_the_words_it_stays_within_its_size_and_reads_the_old_ones_as_before(old, instructions, size):
    size = max(size, old.get_vocab_size())
    new = extended(old, instructions, size)
    assert new.get_vocab_size() <= size
    for instruction in OLD:
        assert old.encode(instruction).ids == new.encode(instruction).ids
    for instruction in instructions:
        assert new.decode(new.encode(instruction).ids, skip_special_tokens=False).split() == instruction.split()
