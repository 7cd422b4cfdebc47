# SPDX-License-Identifier: Apache-2.0
"""What peers send again and again is told without flooding the log."""

from specprune_ros.nodes.reporting.repeated_log import AGAIN, MOST, RepeatedLog


def test_a_text_is_told_at_once_and_again_after_a_while():
    now, told = [0.0], []
    log = RepeatedLog(told.append, lambda: now[0])
    for _ in range(100):
        for text in ("empty", "too long"):
            log(text)
        now[0] += AGAIN / 50
    assert told == ["empty", "too long"] * 2


def test_ever_new_texts_are_no_flood():
    now, told = [0.0], []
    log = RepeatedLog(told.append, lambda: now[0])
    for number in range(1000):
        log(f"{number} is wrong")
    assert len(told) == MOST
    now[0] = AGAIN
    log("the last one")
    assert told[-1] == "the last one"
