# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu.py in its reduced form, on a CPU; and that benchmarks start without PYTHONPATH."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))
import gpu  # noqa: E402
import gpu_report  # noqa: E402
import gpu_sections  # noqa: E402

sys.path.remove(str(BENCHMARKS))

SLOW = ("gpu_tests", "precisions", "kernels", "attention_backends")
QUICK = ",".join(name for name in gpu_sections.SECTIONS if name not in SLOW)


def command(*arguments: str) -> subprocess.CompletedProcess:
    """From the root, as a user types it, without PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("gpu") / "new" / "gpu.json"
    done = command("benchmarks/gpu.py", str(out), "--device", "cpu", "--reduced", "--sections", QUICK)
    assert done.returncode == 0, done.stderr
    return out


# As `python benchmarks/NAME --help` does, less the import of torch and others for each.
HELP = """
import os, runpy, sys, safetensors.torch, tokenizers, torch, tqdm, yaml
for name in sys.argv[1:]:
    if not os.fork():
        sys.argv, sys.path[0] = [name, "--help"], os.path.abspath("benchmarks")
        runpy.run_path(name, run_name="__main__")  # argparse ends it with 0, an exception with 1
        os._exit(2)
    assert os.wait()[1] == 0, name
"""


def test_benchmarks_start_from_the_root_without_pythonpath():
    names = (f"benchmarks/{name}.py" for name in ("latency", "fusion", "scaling", "gpu"))
    done = command("-c", HELP, *names)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == 4


def test_reduced_form_measures_every_section(measured: Path):
    result = json.loads(measured.read_text())
    assert list(result["sections"]) == QUICK.split(",")
    assert not [name for name, section in result["sections"].items() if "failed" in section]
    assert all(row["kept_sets_equal"] for row in result["sections"]["graph_against_eager"].values())
    assert result["sections"]["device_against_cpu"]["paper float32"]["relative_error"] < 1e-5
    rows = result["sections"]["latency"]["rows"]
    assert set(gpu_report.ROWS.values()) <= set(rows)
    assert rows["fast coarse, tile 1"]["tokens"][-1] < rows["paper coarse, tile 1"]["tokens"][-1]


def test_reports_read_a_measured_file_without_measuring_again(measured: Path, monkeypatch, capsys):
    before = measured.read_text()
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(measured), "--markdown", "--compare", str(measured)])  # no GPU
    gpu.main()
    printed = capsys.readouterr().out
    assert measured.read_text() == before
    assert "| paper coarse, tile 1 |" in printed
    assert re.search(r"(\d+) of \1 numbers changed by less than 3%", printed)


def test_failing_and_endless_sections_leave_their_traceback():
    bench = gpu_sections.Bench(torch.device("cpu"), torch.float32, True, 6, 2)

    def broken(bench):
        raise RuntimeError("no kernel image is available")

    def endless(bench):
        while True:
            time.sleep(0.01)

    assert "RuntimeError: no kernel image" in gpu.section(broken, bench, 10)["failed"]
    assert "TimeoutError: not done after 0 s" in gpu.section(endless, bench, 0.2)["failed"]
    assert "no time was left" in gpu.section(endless, bench, -1.0)["failed"]
    assert gpu.section(lambda bench: {"fine": 1}, bench, 10) == {"fine": 1}


def test_document_has_the_predictions_and_what_was_measured():
    document = (ROOT / "docs" / "performance.md").read_text()
    files = ("gpu_h100_first", "gpu_h100")
    results = [json.loads((BENCHMARKS / "results" / f"{name}.json").read_text()) for name in files]
    before, after = (result["sections"]["latency"]["rows"] for result in results)
    dense = after["dense"]["p50_ms"]
    for preset, name in gpu_report.ROWS.items():
        label = preset if preset == "dense" else f"{preset}, coarse"
        predicted, row = gpu_report.PREDICTED_MS["H100"][preset][-1], after[name]
        stages = [f"{row['stages_ms'][stage]:.1f}".replace("0.0", "0") for stage in gpu_report.STAGES]
        cells = [
            label,
            f"{predicted:g}",
            f"{before[name]['p50_ms']:.1f}",
            f"{row['p50_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
        ]
        cells += [*stages, f"{dense / row['p50_ms']:.2f}"]
        assert f"| {' | '.join(cells)} |" in document
        assert f"{gpu_report.PREDICTED_MS['4090'][preset][-1]:g}" in document
    for name, row in results[1]["sections"]["precisions"].items():
        times = [f"{row[arm]['p50_ms']:.1f}" for arm in ("dense", "paper", "fast")]
        assert f" | {row['weights_GB']:.1f} | {' | '.join(times)} | " in document, name


def test_rows_far_from_the_prediction_are_marked(measured: Path):
    result = json.loads(measured.read_text())
    result["machine"]["gpu"] = "NVIDIA H100 80GB HBM3"
    result["sections"]["latency"]["rows"]["dense"] |= {
        "p50_ms": 21.0,
        "stages_ms": {"vision": 2.6, "decoder": 30.0, "selection": 0.0},
    }
    text = gpu_report.markdown(result)
    assert "| dense | whole | 21.20 | 21.00 | -1% |" in text
    assert "| dense | decoder | 17.40 | 30.00 | +72% (explain) |" in text


def test_comparison_tells_what_changed(measured: Path):
    new, old = (json.loads(measured.read_text()) for _ in range(2))
    old["sections"]["memory"]["peak_GB"] *= 2
    text = gpu_report.comparison(new, old)
    assert "| memory, peak_GB |" in text and "| 0.50 |" in text
