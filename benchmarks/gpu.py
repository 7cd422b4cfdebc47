# SPDX-License-Identifier: Apache-2.0
"""Everything worth knowing of a GPU in one command and within ten minutes.

    python benchmarks/gpu.py out/gpu.json                        # measure
    python benchmarks/gpu.py out/gpu.json --markdown             # the tables of a measured file, beside the prediction
    python benchmarks/gpu.py out/gpu.json --compare out/old.json # a measured file beside an older one

Needs torch, transformers, numpy, safetensors, Pillow, PyYAML, tqdm and pytest. Every section is written as soon as it
is done and has a time limit; one that fails leaves its traceback, and the next goes on. With --device cpu --reduced a
small model runs through the same code within a minute.
"""

import argparse
import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gpu_report
import machine
import torch
from gpu_sections import SECTIONS, Bench

from specprune_ros.openvla.checkpoint import auto_dtype

LIMIT = 560.0  # seconds for all sections


def main() -> None:
    args = parse_arguments()
    if args.measures:
        measure(args)
    result = json.loads(args.out.read_text())
    if args.markdown:
        print(gpu_report.markdown(result))
    if args.compare:
        print(gpu_report.comparison(result, json.loads(args.compare.read_text())))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "out", type=machine.writable, metavar="OUT.json", help="written; or read, when it exists and a report is asked"
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: cuda)")
    parser.add_argument(
        "--reduced", action="store_true", help="a small model and few rounds, to try the command itself"
    )
    parser.add_argument("--layers", type=int, help="decoder layers (default: 32, the real depth)")
    parser.add_argument("--rounds", type=int, help="inferences of every variant (default: 40)")
    parser.add_argument("--sections", metavar="NAME,NAME", help=f"of: {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds for all sections (default: {LIMIT:.0f})")
    parser.add_argument("--markdown", action="store_true", help="print the tables for docs/performance.md")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="print the ratios to an older file")
    args = parser.parse_args()
    args.chosen = args.sections.split(",") if args.sections else list(SECTIONS)
    unknown = [name for name in args.chosen if name not in SECTIONS]
    if unknown:
        parser.error(f"--sections: no section '{unknown[0]}'; there are: {', '.join(SECTIONS)}")
    args.measures = not ((args.markdown or args.compare) and args.out.exists())
    if args.measures and args.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch sees no CUDA GPU; use --device cpu, or repair the driver")
    if args.compare and not args.compare.exists():
        parser.error(f"--compare {args.compare}: there is no such file")
    return args


def measure(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    dtype = getattr(torch, auto_dtype(args.device))
    layers, rounds = (6, 2) if args.reduced else (32, 40)
    bench = Bench(device, dtype, args.reduced, args.layers or layers, args.rounds or rounds)
    result: dict[str, Any] = {
        "machine": machine.describe(device),
        "dtype": str(dtype).removeprefix("torch."),
        "layers": bench.layers,
        "reduced": args.reduced,
        "sections": {},
        "seconds": {},
    }
    end = time.monotonic() + args.limit
    with torch.cuda.device(device if device.type == "cuda" else -1):
        for name in args.chosen:
            function, most = SECTIONS[name]
            begin = time.monotonic()
            result["sections"][name] = section(function, bench, min(most, end - begin))
            result["seconds"][name] = round(time.monotonic() - begin, 1)
            args.out.write_text(json.dumps(result, indent=1, default=str) + "\n")
            trouble = result["sections"][name].get("failed", "").strip().splitlines()
            print(f"{name:22} {result['seconds'][name]:7.1f} s  {trouble[-1] if trouble else 'done'}", flush=True)


def section(function: Callable[[Bench], dict[str, Any]], bench: Bench, limit: float) -> dict[str, Any]:
    """What the section measured, or its traceback."""
    try:
        with time_limit(limit), torch.inference_mode():
            return function(bench)
    except Exception:
        return {"failed": traceback.format_exc()[-4000:]}


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the main thread when the time is up."""
    if seconds <= 0:
        raise TimeoutError("no time was left for this section")

    def expire(number: int, frame: Any) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    main()
