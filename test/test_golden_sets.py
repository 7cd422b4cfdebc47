# SPDX-License-Identifier: Apache-2.0
"""Every variant against the recorded reference: each recorded stage, the actions, and what must not come out."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_sets import NAMES, GoldenSet, Trace, golden_set
from safetensors.torch import load_file, save_file

from specprune_ros.engine.engine import Engine
from specprune_ros.errors import CheckpointError, ObservationError
from specprune_ros.openvla.discrete_head import BINS, bin_centers
from specprune_ros.openvla.lora import adapter_factors, adapter_scaling, merged
from specprune_ros.openvla.merged_adapter import presence
from specprune_ros.openvla.variant import identify
from specprune_ros.openvla.weight_files import WeightFiles
from specprune_ros.policy import Policy
from specprune_ros.pruning.config import PruningConfig

TOLERANCE = 1e-4
INPUTS = {"instruction", "unnorm_key", "state", "pixel_values", "initial_noise", "noise_seed"}
COUNTS = {"num_diffusion_steps_train", "num_diffusion_steps_inference", "n_language_tokens", "tail_first_id"}
LOGITS = {"predicted_token_ids", "bin_indices", "bin_centers", "top2_logits", "top2_ids", "tail_logits"}
OTHER = INPUTS | COUNTS | LOGITS | {"actions_base_without_adapter"}

_traces: dict[str, Trace] = {}


def trace(name: str) -> Trace:
    if name not in _traces:
        _traces[name] = Trace(golden_set(name).load(), golden_set(name))
    return _traces[name]


@pytest.fixture(params=NAMES)
def golden(request) -> GoldenSet:
    return golden_set(request.param)


def worst(ours, reference) -> float:
    ours = np.asarray(ours, dtype=np.float64)
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max())


# What comes out


def test_every_recorded_stage(golden):
    """Led from the recorded pixels, a sampler along the recorded samples; crops have their own test below."""
    values = trace(golden.name).values
    stages = {name for name in golden.record if name not in OTHER and not name.endswith(("_image", "_crop"))}
    assert stages <= values.keys()
    assert len(stages) >= 10
    errors = {name: worst(values[name], golden.record[name]) for name in stages}
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}


def test_frames_are_cropped_as_tensorflow_does(golden):
    loaded = golden.load()
    engine = Engine(loaded.model, loaded.tokenizer.eos_id, loaded.family.center_crop, None)
    frames = engine.prepare(list(golden.views.values())).numpy()
    for frame, name in zip(frames, golden.views, strict=True):
        assert np.array_equal(frame, golden.record[name.replace("_image", "_crop")]), name


@pytest.mark.parametrize("name", [name for name in NAMES if name != "diffusion"])
def test_policy_from_camera_images_to_actions(name):
    golden = golden_set(name)
    chunk = golden.policy().act(golden.observation)
    assert chunk.unnorm_key == str(golden.record["unnorm_key"])
    assert worst(chunk.actions, golden.record["actions"]) <= TOLERANCE


def test_diffusion_policy_samples_as_near_the_record_as_rounding_allows():
    """A 1e-7 in the noise moves the actions of this random net by some 0.02, in the reference too; not by more."""
    golden = golden_set("diffusion")
    policy = golden.policy()
    actions = policy.act(golden.observation, noise=golden.noise).actions
    moved = policy.act(golden.observation, noise=golden.noise + np.float32(1e-6)).actions
    assert worst(actions, golden.record["actions"]) <= 0.06
    assert 1e-4 < worst(actions, moved) <= 0.06
    other = policy.act(golden.observation, noise=-golden.noise).actions
    assert worst(other, golden.record["actions"]) > 0.2


def test_discrete_tokens_and_logits():
    record, values = golden_set("discrete").record, trace("discrete").values
    head = trace("discrete")._model.action_head
    logits = torch.from_numpy(values["logits"])
    ids = head.token_ids(logits)
    assert np.array_equal(ids[None], record["predicted_token_ids"])
    assert np.array_equal(head.bins(ids)[None], record["bin_indices"])
    assert worst(bin_centers(torch.arange(BINS)), record["bin_centers"]) < 1e-6
    top = logits.topk(2, dim=1)
    assert np.array_equal(top.indices, record["top2_ids"])
    assert worst(top.values, record["top2_logits"]) <= TOLERANCE
    assert worst(logits[:, int(record["tail_first_id"]) :], record["tail_logits"]) <= TOLERANCE


def test_of_equal_logits_the_lowest_id_wins():
    head = trace("discrete")._model.action_head
    logits = torch.zeros(2, 32064)
    logits[0, [31800, 31900]] = 1.0
    assert head.token_ids(logits).tolist() == [31800, 0]


def test_what_the_folders_are(golden):
    said = str(identify(golden.folder, golden.arguments.get("base_checkpoint")))
    assert (
        said
        == {
            "film": "FiLM towers (OFT+), proprio, L1 regression head, no adapter",
            "diffusion": "plain towers, proprio, diffusion head, no adapter",
            "discrete": "plain towers, no proprio, discrete tokens head, no adapter",
            "one_view": "plain towers, no proprio, L1 regression head, LoRA merged",
            "lora": "plain towers, proprio, L1 regression head, un-merged LoRA",
        }[golden.name]
    )


def test_language_of_film_is_the_whole_prompt():
    golden = golden_set("film")
    prompt = golden.load().tokenizer(str(golden.record["instruction"]))
    assert len(prompt.token_ids) + 1 == int(golden.record["n_language_tokens"])


# What must not come out


@pytest.fixture
def copied(tmp_path):
    def copy(name: str) -> Path:
        return Path(shutil.copytree(golden_set(name).root, tmp_path / name))

    return copy


def actions_of(folder: Path, name: str, **arguments) -> np.ndarray:
    return Policy.from_checkpoint(folder, **arguments).act(golden_set(name).observation).actions


def test_towers_of_the_safetensors_are_not_those_of_film(copied):
    folder, record = copied("film"), golden_set("film").record
    path = folder / "vision_backbone--50000_checkpoint.pt"
    state = torch.load(path, weights_only=True)
    base = load_file(folder / "model.safetensors")
    name = "vision_backbone.featurizer.blocks.0.{}attn.qkv.{}weight"
    assert torch.equal(state[name.format("block.", "base_layer.")], base[name.format("", "")])

    without_lora = {key: value for key, value in state.items() if ".lora_" not in key}
    torch.save(without_lora, path)
    assert worst(actions_of(folder, "film"), record["actions"]) > 0.01
    path.unlink()
    assert worst(actions_of(folder, "film"), record["actions"]) > 0.01


def test_film_takes_alpha_from_an_adapter_beside_it(copied):
    folder, record = copied("film"), golden_set("film").record
    adapter = folder / "lora_adapter"
    adapter.mkdir()
    config = json.loads((golden_set("lora").folder / "lora_adapter" / "adapter_config.json").read_text())
    for alpha, is_right in ((16, True), (20, False)):
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"r": 20, "lora_alpha": alpha}))
        assert (worst(actions_of(folder, "film"), record["actions"]) <= TOLERANCE) == is_right


def test_an_adapter_that_is_merged_already_is_not_applied_again(copied):
    folder, record = copied("one_view"), golden_set("one_view").record
    base = folder.parent / "base"
    base.mkdir()
    for file in ("config.json", "model.safetensors"):
        (folder / file).rename(base / file)
    assert "not one with the adapter merged" in refused(lambda: actions_of(folder, "one_view", base_checkpoint=base))

    path = folder / "lora_adapter" / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if "base_layer" not in name}, path)
    assert worst(actions_of(folder, "one_view", base_checkpoint=base), record["actions"]) > 0.01


def test_film_with_an_adapter_that_is_not_merged(copied, tmp_path):
    """Decoder and projector from base and adapter, towers from the `.pt`: as the same weights merged by hand."""
    folder, base = copied("film"), tmp_path / "base"
    base.mkdir()
    for file in ("config.json", "model.safetensors"):
        (folder / file).rename(base / file)
    weights, rank, scaling = load_file(base / "model.safetensors"), 20, 0.5
    adapter = folder / "lora_adapter"
    adapter.mkdir()
    config = json.loads((golden_set("lora").folder / "lora_adapter" / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"r": rank, "lora_alpha": rank * scaling}))
    random, factors = torch.Generator().manual_seed(0), {}
    # The factors of a tower have the wrapper's names, match nothing in the plain model, and belong to the `.pt`.
    for module, name in (
        ("language_model.model.layers.1.mlp.up_proj",) * 2,
        ("projector.fc2",) * 2,
        ("vision_backbone.vision_backbone.featurizer.blocks.0.block.attn.qkv", ""),
    ):
        out, width = weights[f"{name}.weight"].shape if name else (8, 8)
        b, a = (torch.randn(out, rank, generator=random) / 8, torch.randn(rank, width, generator=random) / 8)
        factors |= {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
        if name:
            weights[f"{name}.weight"] = weights[f"{name}.weight"].float() + scaling * b @ a
    save_file(factors, adapter / "adapter_model.safetensors")
    actions = actions_of(folder, "film", base_checkpoint=base)

    by_hand = Path(shutil.copytree(folder, tmp_path / "by_hand"))
    (by_hand / "lora_adapter" / "adapter_model.safetensors").unlink()  # its alpha is the towers', too
    shutil.copy(base / "config.json", by_hand)
    save_file(weights, by_hand / "model.safetensors")
    assert worst(actions_of(by_hand, "film"), golden_set("film").record["actions"]) > 0.01
    assert worst(actions, actions_of(by_hand, "film")) <= TOLERANCE


def test_the_base_without_the_adapter(copied):
    root, record = copied("lora"), golden_set("lora").record
    folder = root / golden_set("lora").folder.name
    for file in ("config.json", "model.safetensors"):
        shutil.copy(root / "base" / file, folder)
    assert "never merged" in refused(lambda: actions_of(folder, "lora"))
    shutil.rmtree(folder / "lora_adapter")
    actions = actions_of(folder, "lora")
    assert worst(actions, record["actions_base_without_adapter"]) <= TOLERANCE
    assert worst(actions, record["actions"]) > 0.01


def test_factors_that_match_nothing_are_refused(copied):
    root = copied("lora")
    path = root / golden_set("lora").folder.name / "lora_adapter" / "adapter_model.safetensors"
    factors = load_file(path)
    for name in [name for name in factors if "layers.3.self_attn.q_proj" in name]:
        factors[name.replace("layers.3", "layers.9")] = factors.pop(name)
    save_file(factors, path)
    assert "matches no weight of" in refused(
        lambda: Policy.from_checkpoint(path.parents[1], base_checkpoint=root / "base")
    )


# What is refused


def refused(call) -> str:
    with pytest.raises((CheckpointError, ObservationError)) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_adapter_without_its_base_is_refused():
    golden = golden_set("lora")
    assert "base_checkpoint" in refused(lambda: golden.load(base_checkpoint=None))
    assert "is not the checkpoint that" in refused(lambda: golden.load(base_checkpoint=golden_set("one_view").root))


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"rank_pattern": {"q_proj": 4}},
        {"modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"lora_bias": True},
        {"r": "8"},
    ],
)
def test_an_adapter_of_another_kind_is_refused(copied, changes):
    root = copied("lora")
    path = root / "finetuned--30000_chkpt" / "lora_adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    message = refused(lambda: Policy.from_checkpoint(path.parents[1], base_checkpoint=root / "base"))
    assert str(path) in message and next(iter(changes)) in message


@pytest.mark.parametrize("start", [True, "gaussian", None])
def test_how_factors_may_have_begun(copied, start):
    root = copied("lora")
    path = root / "finetuned--30000_chkpt" / "lora_adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": start}))
    Policy.from_checkpoint(path.parents[1], base_checkpoint=root / "base")


def of_adapter(root: Path, change) -> str:
    """What is said of the adapter of the set `lora` after a change of its file's tensors."""
    path = root / "finetuned--30000_chkpt" / "lora_adapter" / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)
    return refused(lambda: Policy.from_checkpoint(path.parents[1], base_checkpoint=root / "base"))


def test_two_adapters_in_one_file_are_refused(copied):
    def add_another(factors):
        more = {name: 3 * tensor for name, tensor in factors.items() if ".lora_" in name}
        return factors | {re.sub(r"(lora_[AB])", r"\1.other", name): tensor for name, tensor in more.items()}

    assert "factors of two adapters" in of_adapter(copied("lora"), add_another)


def test_factors_of_another_rank_than_their_configuration_says(copied):
    root = copied("lora")
    path = root / "finetuned--30000_chkpt" / "lora_adapter" / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"r": 2 * content["r"]}))
    assert f"is of rank {content['r']}, but r in" in of_adapter(root, lambda factors: factors)


def test_factors_of_another_shape(copied):
    name = "base_model.model.projector.fc2.lora_B.weight"
    message = of_adapter(copied("lora"), lambda factors: factors | {name: factors[name][:-1].contiguous()})
    assert "projector.fc2.weight: the LoRA factors" in message


def test_an_adapter_of_an_older_peft_says_how_to_convert_it(copied):
    root = copied("lora")
    path = root / "finetuned--30000_chkpt" / "lora_adapter" / "adapter_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    assert "save_file" in refused(lambda: Policy.from_checkpoint(path.parents[1], base_checkpoint=root / "base"))


@pytest.mark.parametrize("times", [1, 2])
def test_an_adapter_is_in_the_weights_beside_it_once(copied, times):
    """Told without the base: one direction among all is not in weights by chance."""
    root = copied("lora")
    folder, base = root / "finetuned--30000_chkpt", root / "base"
    adapter = folder / "lora_adapter"
    weights, scaling = load_file(base / "model.safetensors"), adapter_scaling(adapter)
    factors = load_file(adapter / "adapter_model.safetensors")
    for name, pair in adapter_factors(adapter).items():
        a, b = factors[pair["A"]], factors[pair["B"]]
        for _ in range(times):
            weights[name] = merged(weights[name], a, b, scaling)
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, folder / "model.safetensors")
    shutil.copy(base / "config.json", folder)
    if times == 1:
        assert worst(actions_of(folder, "lora"), golden_set("lora").record["actions"]) < 0.05  # bfloat16
        found = presence(WeightFiles(folder), adapter)
        assert found.times == pytest.approx(1, abs=0.1) and found.error < 0.1 and found.compared == 6
    else:
        assert "beside it 2.0 times" in refused(lambda: actions_of(folder, "lora"))


@pytest.mark.parametrize("factor, change", [("A", lambda x: x.repeat(2, 1)), ("B", lambda x: x.mT.contiguous())])
def test_factors_in_the_towers_of_film_have_to_fit(copied, factor, change):
    folder = copied("film")
    path = next(folder.glob("vision_backbone--*"))
    state = torch.load(path, weights_only=True)
    name = f"vision_backbone.featurizer.blocks.0.block.attn.qkv.lora_{factor}.default.weight"
    torch.save(state | {name: change(state[name])}, path)
    message = refused(lambda: actions_of(folder, "film"))
    assert "blocks.0.attn.qkv.weight: the LoRA factors" in message and path.name in message


def test_openvla_before_oft_is_no_discrete_head(copied):
    """It has no head either, says its tokens one by one, and its training wrote a proprio of zeros."""
    folder = copied("discrete")
    path = folder / "dataset_statistics.json"
    content = json.loads(path.read_text())
    for entry in content.values():
        entry["proprio"] = {name: [0.0] * 7 for name in ("mean", "std", "min", "max", "q01", "q99")}
    path.write_text(json.dumps(content))
    message = refused(lambda: actions_of(folder, "discrete"))
    assert "OpenVLA before OFT" in message and "action_head--" in message
    for entry in content.values():
        del entry["proprio"]
    path.write_text(json.dumps(content))
    assert worst(actions_of(folder, "discrete"), golden_set("discrete").record["actions"]) <= TOLERANCE


def test_another_number_of_bins_is_refused(copied):
    path = copied("discrete") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_action_bins": 512}))
    assert "n_action_bins is 512; only 256" in refused(lambda: actions_of(path.parent, "discrete"))


def test_wrong_steps_and_noise_are_refused():
    golden = golden_set("diffusion")
    assert "more than the 50 of training" in refused(lambda: golden.load(num_diffusion_steps=51))
    assert "at least 1" in refused(lambda: golden.load(num_diffusion_steps=0))
    assert "leave it out" in refused(lambda: golden_set("one_view").load(num_diffusion_steps=10))
    policy = golden.policy()
    for noise in (golden.noise[None], golden.noise * np.nan, golden.noise.astype(int)):
        assert "expected finite floats of shape (8, 7)" in refused(
            lambda noise=noise: policy.act(golden.observation, noise=noise)
        )
    other = golden_set("one_view")
    assert "takes none" in refused(lambda: other.policy().act(other.observation, noise=np.zeros((5, 7), np.float32)))


def test_noise_is_drawn_from_a_generator_that_the_stamp_seeds():
    """So that an episode repeats, and arms of a replay differ by their pruning alone, however often each acts."""
    golden = golden_set("diffusion")
    dense = golden.policy(num_diffusion_steps=2)
    observations = [dataclasses.replace(golden.observation, stamp=stamp) for stamp in (1.0, 1.05, 1.1)]
    first, second, third = (dense.act(observation).actions for observation in observations)
    assert not np.array_equal(first, second) and not np.array_equal(second, third)
    assert np.array_equal(third, dense.act(observations[-1]).actions)  # again on the same one
    everything = dense.sibling(PruningConfig(budget_tokens=256, keep_ratio=1.0, scene_cut_share=1.0))
    for observation, actions in zip(observations, (first, second, third), strict=True):
        assert worst(everything.act(observation).actions, actions) < 1e-3


def test_a_model_that_says_no_action_tokens_moves_nothing(copied):
    """A release whose `*.pt` files were not downloaded is a checkpoint with the discrete head, by its files."""
    policy = golden_set("discrete").policy()
    assert np.isfinite(policy.act(golden_set("discrete").observation).actions).all()
    folder = copied("discrete")
    weights = load_file(folder / "model.safetensors")
    name = "language_model.lm_head.weight"
    weights[name] = weights[name].roll(-300, 0)  # what stood for actions stands for words
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"action_head--STEP_checkpoint.pt is missing"):
        Policy.from_checkpoint(folder).act(golden_set("discrete").observation)
