# SPDX-License-Identifier: Apache-2.0
"""What `gpu.py` measures. Every section takes the bench and returns what goes into the JSON, times in milliseconds."""

import dataclasses
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
import torch.nn.functional as F
from fusion import parts
from latency import Run, camera_frames, engine_run, reference_run
from openvla_7b import EOS_ID, LIBERO_PROMPT, OPENVLA_7B, build
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from specprune_ros.engine.calibration import calibrate, measured_lengths
from specprune_ros.engine.cuda_graph import CapturedPass, Graphs, tensors
from specprune_ros.engine.device_scope import device_scope
from specprune_ros.engine.device_time import device_seconds
from specprune_ros.engine.engine import Engine
from specprune_ros.engine.flops import decoder_flops, vision_flops
from specprune_ros.engine.precision import check_precision, pack, store_linears
from specprune_ros.engine.precision_names import NATIVE, PRECISIONS
from specprune_ros.errors import ConfigError
from specprune_ros.openvla.config import DecoderConfig, ModelConfig, TowerConfig
from specprune_ros.openvla.model import OpenVLA, SequenceLayout, in_turn
from specprune_ros.pruning.config import PRESETS, PruningConfig
from specprune_ros.pruning.scores import patch_scores, text_attention

ROOT = Path(__file__).parents[1]
TOWER = TowerConfig(32, 1, 2, 64, 14, 16, 0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SMALL = dataclasses.replace(  # for the reduced form: runs on any CPU within seconds
    OPENVLA_7B,
    towers=(dataclasses.replace(TOWER, num_registers=4), TOWER),
    decoder=DecoderConfig(32064, 64, 128, 6, 2),
    image_size=56,
    projector_width=64,
    head_width=64,
)
LENGTHS = (605, 281, 216)  # dense, and about those of `paper` and `fast` behind the static selection
PRODUCTS = (  # rows, inner size, columns: a large one; the decoder's at those lengths; the towers'
    (8192, 8192, 8192),
    *(
        (length, *matrix)
        for length in LENGTHS
        for matrix in ((4096, 12288), (4096, 4096), (4096, 22016), (11008, 4096))
    ),
    (522, 1024, 4096),
    (512, 1152, 4304),
)
COPIED = 1 << 30  # bytes: many times the cache
FP8 = torch.float8_e4m3fn
BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


@dataclasses.dataclass
class Bench:
    """Device, geometry and amount of work. The model is built when the first section needs it."""

    device: torch.device
    dtype: torch.dtype
    reduced: bool
    layers: int
    rounds: int
    problem: str = ""  # of packing the model

    @property
    def geometry(self) -> ModelConfig:
        return SMALL if self.reduced else OPENVLA_7B

    @functools.cached_property
    def model(self) -> OpenVLA:
        """As a policy has it."""
        model = self.build()
        self.problem = pack(model)
        return model

    @functools.cached_property
    def plain(self) -> OpenVLA:
        """Without our kernels, the towers one after the other."""
        return self.build()

    def build(self, dtype: torch.dtype | None = None) -> OpenVLA:
        share = self.device.type == "cpu" and not self.reduced
        return build(
            self.device, dtype or self.dtype, num_layers=self.layers, share_layers=share, geometry=self.geometry
        )

    def milliseconds(self, calls: Mapping[Any, Callable[[], Any]], repeat: int = 4) -> dict[Any, float]:
        """Median device time of each call."""
        with device_scope(self.device):
            seconds = device_seconds(calls, self.device, rounds=2 if self.reduced else 9, repeat=repeat)
        return {key: float(np.median(values)) * 1e3 for key, values in seconds.items()}

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.randn(shape, device=self.device, dtype=dtype or self.dtype)


def ceilings(bench: Bench) -> dict[str, Any]:
    """How fast the device copies and multiplies: the two limits of everything else."""
    size = COPIED >> 8 if bench.reduced else COPIED
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    copied = bench.milliseconds({"copy": lambda: target.copy_(source)}, repeat=2)["copy"]
    result: dict[str, Any] = {"copy_TB_per_s": 2 * size / copied / 1e9}
    for rows, inner, columns in PRODUCTS:
        if bench.reduced:
            rows, inner, columns = rows // 16, inner // 16, columns // 16
        row: dict[str, Any] = {}
        for name, product in _products(bench, rows, inner, columns).items():
            try:
                row[name] = bench.milliseconds({name: product})[name]
            except RuntimeError as error:  # no kernel for this shape on this card
                row[f"{name}_refused"] = str(error).splitlines()[0]
            else:
                row[f"{name}_TFLOP_per_s"] = 2 * rows * inner * columns / row[name] / 1e9
        result[f"{rows} x {inner} x {columns}"] = row
    return result


def _products(bench: Bench, rows: int, inner: int, columns: int) -> dict[str, Callable[[], Any]]:
    x, w = bench.random(rows, inner), bench.random(columns, inner)
    runs: dict[str, Callable[[], Any]] = {"native": lambda: F.linear(x, w)}
    if bench.device.type == "cuda":
        x8, w8 = ((tensor * 30).clamp(-127, 127).to(torch.int8) for tensor in (x, w))
        runs["int8"] = lambda: torch._int_mm(x8, w8.t())
        if torch.cuda.get_device_capability(bench.device) >= (8, 9):
            xf, wf = x.to(FP8), w.to(FP8)
            row = torch.ones(rows, 1, device=bench.device)
            column = torch.ones(1, columns, device=bench.device)
            runs["fp8"] = lambda: torch._scaled_mm(xf, wf.t(), scale_a=row, scale_b=column, out_dtype=bench.dtype)
    return runs


def gpu_tests(bench: Bench) -> dict[str, Any]:
    """The tests of the CUDA path; the reduced form only collects them."""
    files = [str(ROOT / "test" / f"test_{name}.py") for name in ("gpu", "fused_layers")]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=line",
        "-k",
        "gpu and not cpu",
        "-p",
        "no:cacheprovider",
        *files,
    ]
    if bench.reduced:
        command.append("--collect-only")
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=ROOT, env=os.environ | {"CI": "1"})
    said = done.stdout.replace(f"{ROOT}/", "").replace(sys.prefix, "PYTHON")  # nothing of where it ran
    return {"exit_code": done.returncode, "tail": said[-4000:]}


def device_against_cpu(bench: Bench) -> dict[str, Any]:
    """A dense and a pruned inference of a small model, against float64 on the CPU: relative error of the actions."""
    result = {}
    exact = build(torch.device("cpu"), torch.float64, num_layers=6, geometry=SMALL)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model = build(torch.device("cpu"), torch.float64, num_layers=6, geometry=SMALL)
        model = model.to(bench.device, dtype)  # the same random numbers
        pack(model)
        for label, config in (("dense", None), ("paper", PruningConfig.from_preset("paper"))):
            engines = [Engine(each, EOS_ID, True, config) for each in (exact, model)]
            reference, found = (_infer(engine, "coarse" if config else "off") for engine in engines)
            result[f"{label} {str(dtype).removeprefix('torch.')}"] = _agreement(reference, found)
    return result


def _infer(engine: Engine, mode: str, seed: int = 5) -> Any:
    views = camera_frames(engine.model.config.num_views, seed)
    sight = engine.look(views, engine.prepare(camera_frames(len(views), 0)))
    return engine.run(mode, LIBERO_PROMPT, sight.frames, sight.similarity, np.zeros(engine.model.config.proprio_dim))


def graph_against_eager(bench: Bench) -> dict[str, Any]:
    """Every preset and mode at the real geometry: the graph, its buffers poisoned first, against the eager pass."""
    result = {}
    for preset in PRESETS:
        config = PruningConfig.from_preset(preset)
        captured = Engine(bench.model, EOS_ID, True, config)
        eager = Engine(bench.model, EOS_ID, True, config, graphs=Graphs(None))
        worst, same = 0.0, True
        for seed, mode in enumerate(("dense", "coarse", "fine", "coarse", "dense", "fine", "coarse")):
            _poison(captured)
            one, other = _infer(captured, mode, seed), _infer(eager, mode, seed)
            worst = max(worst, float(np.abs(one.actions - other.actions).max()))
            same &= all(map(np.array_equal, one.kept_final, other.kept_final)) and bool(np.isfinite(one.actions).all())
        result[preset] = {
            "largest_action_difference": worst,
            "kept_sets_equal": same,
            "problem": captured.graphs.problem,
            "captured": captured.graphs.capture,
        }
    return result


def kernels_against_plain(bench: Bench) -> dict[str, Any]:
    """Every preset at the real geometry with our kernels, against the plain layers: relative error of the actions."""
    result = {}
    for label, config in (("dense", None), *((preset, PruningConfig.from_preset(preset)) for preset in PRESETS)):
        engines = [Engine(model, EOS_ID, True, config) for model in (bench.plain, bench.model)]
        expected, found = (_infer(engine, "coarse" if config else "off") for engine in engines)
        result[label] = _agreement(expected, found)
    return result


def _agreement(expected: Any, found: Any) -> dict[str, float]:
    kept, other = ({(v, int(p)) for v, ps in enumerate(r.kept_final) for p in ps} for r in (expected, found))
    error = np.linalg.norm(found.actions - expected.actions) / np.linalg.norm(expected.actions)
    return {"relative_error": float(error), "kept_in_common": len(kept & other) / len(kept)}


@torch.inference_mode()
def _poison(engine: Engine) -> None:
    for captured in [engine._look, *(held.run for held in engine._passes.values())]:
        if isinstance(captured, CapturedPass):
            for tensor in (*tensors(captured._outputs), *captured._inputs):
                tensor.fill_(float("nan") if tensor.is_floating_point() else 77)


def latency(bench: Bench) -> dict[str, Any]:
    """Whole inferences in turn: every preset, mode and tile; dense; eager; the reference's way."""
    model, graphs = bench.model, Graphs.of(bench.device)
    paper = PruningConfig.from_preset("paper")
    static_only = paper.changed({"prune_layers": (0,), "update_layers": (0,)})
    variants: list[tuple[str, PruningConfig | None, str, int, Graphs]] = [
        ("dense", None, "off", 1, graphs),
        ("paper static only, tile 1", static_only, "coarse", 1, graphs),
        ("dense, eager", None, "off", 1, Graphs(None)),
        ("paper coarse, tile 1, eager", paper, "coarse", 1, Graphs(None)),
    ]
    for preset in PRESETS:
        config = PruningConfig.from_preset(preset)
        variants.append((f"{preset} dense", config, "dense", 1, graphs))
        variants += [
            (f"{preset} {mode}, tile {tile}", config, mode, tile, graphs)
            for mode in ("coarse", "fine")
            for tile in ((1,) if bench.reduced else (1, 64, 128))
        ]
    rows: dict[str, dict[str, Any]] = {}
    runs: dict[str, Run] = {}
    for name, config, mode, tile, using in variants:
        before = _allocated(bench.device)
        runs[name] = engine_run(Engine(model, EOS_ID, True, config, tile, using), mode)
        begin = time.perf_counter()
        runs[name]()
        machine.synchronize(bench.device)
        rows[name] = {
            "first_s": time.perf_counter() - begin,  # with the capture
            "memory_MB": (_allocated(bench.device) - before) / 1e6,
        }
    for name, config, mode in (
        ("dense, plain layers", None, "off"),
        ("paper coarse, tile 1, plain layers", paper, "coarse"),
        ("fast coarse, tile 1, plain layers", PruningConfig.from_preset("fast"), "coarse"),
    ):
        rows[name], runs[name] = {}, engine_run(Engine(bench.plain, EOS_ID, True, config, graphs=graphs), mode)
    rows["reference-style dense, eager"] = {}
    runs["reference-style dense, eager"] = reference_run(bench.plain)
    measured = _in_turn(bench, runs)
    for name, row in rows.items():
        row |= measured[name]
    for row in rows.values():
        row["speedup"] = rows["dense"]["p50_ms"] / row["p50_ms"]
    return {"rows": rows, "graph_problem": graphs.problem, "kernel_problem": bench.problem}


def _in_turn(bench: Bench, runs: Mapping[str, Run]) -> dict[str, dict[str, Any]]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    facts = {}
    for turn in range(bench.rounds + 1):
        for name, run in runs.items():
            machine.synchronize(bench.device)
            begin = time.perf_counter()
            measured, tokens, share = run()
            machine.synchronize(bench.device)
            if turn:
                seconds[name].append(time.perf_counter() - begin)
                stages[name].append(measured)
            facts[name] = {"tokens": tokens, "decoder_flop_share": share}
    result: dict[str, dict[str, Any]] = {}
    config = bench.model.config
    for name, values in seconds.items():
        milliseconds = np.array(values) * 1e3
        flops = vision_flops(config) + decoder_flops(config.decoder, facts[name]["tokens"], config.num_actions)
        result[name] = {
            "p50_ms": float(np.median(milliseconds)),
            "p99_ms": float(np.percentile(milliseconds, 99)),
            "min_ms": float(milliseconds.min()),
            "runs": len(values),
            "TFLOP": flops / 1e12,
            "stages_ms": {stage: float(np.median([s[stage] for s in stages[name]])) * 1e3 for stage in stages[name][0]},
            **facts[name],
        }
    return result


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def memory(bench: Bench) -> dict[str, Any]:
    """GB: weights, and the most that the sections so far have taken."""
    result = {
        "weights_GB": sum(p.nbytes for p in bench.model.parameters()) / 1e9,
        "peak_GB": machine.peak_memory(bench.device) / 1e9,
    }
    if bench.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(bench.device)
        result |= {"reserved_GB": torch.cuda.max_memory_reserved(bench.device) / 1e9, "in_use_GB": (total - free) / 1e9}
    return result


def calibration(bench: Bench) -> dict[str, Any]:
    """The tile that three starts choose, and a layer's time by length."""
    decoder = bench.model.decoder
    lengths = measured_lengths()[::8] if bench.reduced else [*range(64, 641, 32), *measured_lengths()]
    layer = decoder.layers[0]

    def at(length: int) -> Callable[[], Any]:
        x, rope = bench.random(length, decoder.config.hidden_size), decoder.rope(length)
        return lambda: layer(x, rope)

    return {
        "starts": [str(calibrate(bench.model)) for _ in range(3)],
        "layer_ms": bench.milliseconds({length: at(length) for length in sorted(set(lengths))}),
    }


def kernels(bench: Bench) -> dict[str, Any]:
    """What an eager pass launches: operations on the device by time. Also tells which attention runs."""
    result = {}
    for label, config, mode in (("dense", None, "off"), ("paper", PruningConfig.from_preset("paper"), "coarse")):
        run = engine_run(Engine(bench.model, EOS_ID, True, config, graphs=Graphs(None)), mode)
        run()
        on_gpu = bench.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with profile(activities=activities) as profiler:
            run()
            machine.synchronize(bench.device)
        times: dict[str, list[float]] = {}
        for event in profiler.events():
            if on_gpu == str(event.device_type).endswith("CUDA"):
                micros = event.device_time if on_gpu else event.self_cpu_time_total
                times.setdefault(event.name[:110], []).append(micros / 1e3)
        ranked = sorted(times.items(), key=lambda item: -sum(item[1]))
        result[label] = {
            "launches": sum(map(len, times.values())),
            "device_ms": sum(map(sum, times.values())),
            "most": [{"name": name, "times": len(ms), "ms": sum(ms)} for name, ms in ranked[:30]],
        }
    return result


def layer_parts(bench: Bench) -> dict[str, Any]:
    """Parts of a plain decoder layer, the layer, and the layer fused by our kernels and by torch's compiler, with the
    error that fusing makes; and the scores of its patches, which a pruned pass adds to a few layers."""
    decoder = bench.plain.decoder
    layer, ours = decoder.layers[0], bench.model.decoder.layers[0]
    layout = SequenceLayout.of(bench.model.config, LIBERO_PROMPT)
    result: dict[str, Any] = {}
    for length in LENGTHS[-1:] if bench.reduced else LENGTHS:
        x, rope = bench.random(length, decoder.config.hidden_size), decoder.rope(length)
        runs: dict[str, Callable[[], Any]] = parts(layer, x, rope) | {
            "layer": lambda x=x, rope=rope: layer(x, rope),
            "layer, our kernels": lambda x=x, rope=rope: ours(x, rope),
        }
        q, k = layer(x, rope)[1:]
        count = length - layout.fixed_tokens
        scored = q, k, layout.instruction_rows(count), count
        runs["scores"] = lambda scored=scored: _scores(*scored)
        if bench.device.type == "cuda":
            fused = torch.compile(layer.forward, dynamic=False)
            runs["layer, compiled"] = lambda fused=fused, x=x, rope=rope: fused(x, rope)
        result[str(length)] = bench.milliseconds(runs)
        with device_scope(bench.device):
            expected = layer(x, rope)[0].float()
            for name, run in runs.items():
                if name.startswith("layer, "):
                    error = (run()[0].float() - expected).norm() / expected.norm()
                    result[str(length)][f"{name}, relative error"] = float(error)
    return result


def _scores(q: torch.Tensor, k: torch.Tensor, text: slice, count: int) -> torch.Tensor:
    return patch_scores(text_attention(q, k, text)[:, :, 1 : 1 + count])


def towers(bench: Bench) -> dict[str, Any]:
    """Both vision towers: one after another, each alone, and (GPU) at once on two streams."""
    model, config = bench.model, bench.geometry
    size = config.image_size
    frames = torch.randint(0, 256, (config.num_views, size, size, 3), dtype=torch.uint8, device=bench.device)
    with device_scope(bench.device):
        pixels = [normalize(frames).to(bench.dtype) for normalize in model.normalizations()]
    calls = [functools.partial(tower, tower_pixels) for tower, tower_pixels in zip(model.towers, pixels, strict=True)]
    runs: dict[str, Callable[[], Any]] = {
        "one after another": lambda: in_turn(calls),
        "first alone": calls[0],
        "second alone": calls[1],
        "as the model runs them": lambda: model.run_towers(calls),
    }
    return bench.milliseconds(runs, repeat=2)


def precisions(bench: Bench) -> dict[str, Any]:
    """Dense, `paper` and `fast` in every number format, in turn; speed-ups are over native dense."""
    configs = {"dense": None, "paper": PruningConfig.from_preset("paper"), "fast": PruningConfig.from_preset("fast")}
    result: dict[str, Any] = {}
    runs: dict[str, Run] = {}
    for precision in PRECISIONS:
        try:
            check_precision(precision, bench.device)
            model, problem = bench.model, bench.problem
            if precision != NATIVE:
                model = bench.build()
                store_linears(model, precision, bench.device)
                problem = pack(model)
            stored = {t.data_ptr(): t.nbytes for t in model.state_dict().values()}
            result[precision] = {"weights_GB": sum(stored.values()) / 1e9, "problem": problem}
        except (ConfigError, RuntimeError) as error:  # this card cannot, or has too little memory
            result[precision] = {"refused": str(error).splitlines()[0]}
            continue
        graphs = Graphs.of(bench.device)
        for label, config in configs.items():
            run = engine_run(Engine(model, EOS_ID, True, config, graphs=graphs), "coarse" if config else "off")
            try:
                run()
            except RuntimeError as error:
                result[precision][label] = {"failed": str(error).splitlines()[0]}
            else:
                runs[f"{precision} {label}"] = run
    measured = _in_turn(dataclasses.replace(bench, rounds=max(2, bench.rounds // 2)), runs)
    dense = measured[f"{NATIVE} dense"]["p50_ms"]
    for name, row in measured.items():
        precision, label = name.split()
        kept = {key: row[key] for key in ("p50_ms", "p99_ms", "min_ms", "stages_ms")}
        result[precision][label] = kept | {"speedup": dense / row["p50_ms"]}
    return result


def attention_backends(bench: Bench) -> dict[str, Any]:
    """Attention of a decoder layer, of the last one (action rows alone) and of the towers, by each kernel of torch."""
    if bench.device.type != "cuda":
        return {"skipped": "needs a GPU"}
    shapes = {f"decoder, {length} tokens": (1, 32, length, length, 128) for length in LENGTHS}
    shapes["decoder's last layer"] = (1, 32, 56, 216, 128)
    shapes |= {"DINOv2": (2, 16, 261, 261, 64), "SigLIP": (2, 16, 256, 256, 72)}
    result: dict[str, Any] = {}
    for name, (views, heads, rows, columns, dim) in shapes.items():
        q, k, v = (bench.random(views, length, heads, dim).transpose(1, 2) for length in (rows, columns, columns))
        row: dict[str, Any] = {}
        for backends in (BACKENDS, *([backend] for backend in BACKENDS)):
            label = "automatic" if len(backends) > 1 else backends[0].name
            call = functools.partial(_attention, backends, q, k, v)
            try:
                row[label] = bench.milliseconds({label: call})[label]
            except RuntimeError as error:
                row[f"{label}_refused"] = str(error).splitlines()[0]
        result[name] = row
    return result


def _attention(backends: list[SDPBackend], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    with nullcontext() if len(backends) > 1 else sdpa_kernel(backends):
        return F.scaled_dot_product_attention(q, k, v)


SECTIONS: dict[str, tuple[Callable[[Bench], dict[str, Any]], float]] = {  # in this order, seconds at most
    "ceilings": (ceilings, 45),
    "device_against_cpu": (device_against_cpu, 45),
    "gpu_tests": (gpu_tests, 150),
    "graph_against_eager": (graph_against_eager, 60),
    "kernels_against_plain": (kernels_against_plain, 30),
    "latency": (latency, 120),
    "memory": (memory, 10),
    "precisions": (precisions, 120),
    "kernels": (kernels, 40),
    "calibration": (calibration, 40),
    "towers": (towers, 30),
    "attention_backends": (attention_backends, 30),
    "layer_parts": (layer_parts, 120),  # last: compiling takes longest and is needed least
}
