# SPDX-License-Identifier: Apache-2.0
"""report.html in a real browser, from disk."""

import re

import pytest
from browser import Browser
from replay_bags import BagMaker, parameter_file

from specprune_ros.replay.options import parse
from specprune_ros.replay.replay import run

MOMENTS = 5


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    bag, out = BagMaker(MOMENTS).write(folder / "bag"), folder / "out"
    words = ["--params-file", str(parameter_file(folder)), "--arms", "paper", "--out", str(out), "--quiet"]
    assert run(parse([str(bag), *words])) == 0
    return out / "report.html"


def test_the_page_needs_nothing_but_itself(page):
    own = re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.S)
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", own)
    assert page.stat().st_size < 30e6


def test_keys_move_scrubber_pictures_and_plots_and_clicks_move_the_scrubber(page):
    with Browser() as browser:
        browser.open(page)
        browser.wait("document.body.dataset.ready === 'yes'")
        assert browser.run("return data.moments.length") == MOMENTS
        before = browser.run("return large[0].toDataURL()")
        browser.press("right")
        browser.wait("document.body.dataset.moment === '1'")
        time = browser.run("return data.moments[1].time")
        assert browser.run("return document.getElementById('actions').layout.shapes[0].x0") == time
        assert browser.run("return document.getElementById('slider').value") == "1"
        browser.wait(f"large[0].toDataURL() !== '{before}'")
        assert browser.run("return document.getElementById('path').data[3].x.length") > 2
        browser.press("end")
        browser.wait(f"document.body.dataset.moment === '{MOMENTS - 1}'")
        browser.run("document.getElementById('latency').emit('plotly_click', {points: [{x: data.moments[2].time}]})")
        browser.wait("document.body.dataset.moment === '2'")
        assert browser.run("return document.querySelectorAll('#gallery figure').length") > 0
        assert [line for line in browser.console() if not line.startswith(("INFO", "DEBUG"))] == []
