# SPDX-License-Identifier: Apache-2.0
"""The doctor: what it says of good checkpoints of every variant, and of everything that can be wrong with one."""

import contextlib
import io
import json
import os
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from golden_sets import golden_set
from release_checkpoint import (
    TINY,
    Sizes,
    random_heads,
    statistics,
    write_checkpoint,
    write_heads,
)
from safetensors.torch import load_file, save_file

from specprune_ros.checkpoint_config import CheckpointConfig
from specprune_ros.doctor.__main__ import main
from specprune_ros.doctor.files import check_files
from specprune_ros.doctor.instruction import instruction_advice
from specprune_ros.doctor.report import examine
from specprune_ros.doctor.robot import Robot, read_robot
from specprune_ros.errors import ConfigError
from specprune_ros.openvla.family import KINDS
from specprune_ros.openvla.prompt import PromptTokenizer
from specprune_ros.policy import Policy
from specprune_ros.quantize.__main__ import main as quantize

KEY = "libero_spatial_no_noops"
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1234\n"
FITTING = """
/**/specprune_policy:
  ros__parameters:
    instruction: pick up the bowl
    inputs: {cameras: [primary, wrist], proprio: end_effector, joint_names: [left, right]}
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    torch.manual_seed(0)
    folder = write_checkpoint(tmp_path_factory.mktemp("good"), Sizes())
    edit_statistics(folder, usual_gripper)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A copy of a good checkpoint, for a test to break."""
    return shutil.copytree(good, tmp_path / "checkpoint")


def findings(folder, *arguments) -> tuple[int, dict]:
    """Exit code and JSON of the command."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = main([str(folder), "--json", *map(str, arguments)])
    return code, json.loads(output.getvalue())


def rows(folder, *arguments, verdict=None) -> dict[str, str]:
    """Name of the check -> details, of all rows or of those with this verdict."""
    found: dict[str, str] = {}
    for row in findings(folder, *arguments)[1]["checks"]:
        if verdict in (None, row["verdict"]):
            found[row["name"]] = f"{found.get(row['name'], '')}{row['detail']}\n"
    return found


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_statistics(folder, change):
    edit_json(folder / "dataset_statistics.json", lambda content: change(content[KEY]))


def usual_gripper(entry):
    """Dimension 6 from 0, closed, to 1, open."""
    for low, high in (("q01", "q99"), ("min", "max")):
        entry["action"][low][6], entry["action"][high][6] = 0.0, 1.0


# Every variant


VARIANTS = {
    "film": ("FiLM towers (OFT+), proprio, L1 regression", (3, 25, 14, 14)),
    "diffusion": ("plain towers, proprio, diffusion", (2, 8, 7, 8)),
    "discrete": ("plain towers, no proprio, discrete tokens", (2, 8, 7, 0)),
    "one_view": ("plain towers, no proprio, L1 regression", (1, 5, 7, 0)),
    "lora": ("un-merged LoRA", (2, 8, 7, 8)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_told_without_a_doubt(name):
    golden = golden_set(name)
    base = golden.arguments.get("base_checkpoint")
    code, found = findings(golden.folder, *(["--base", base] if base else []))
    assert code == 0 and found["verdict"] == "pass", found["checks"]
    words, sizes = VARIANTS[name]
    assert words in found["variant"]
    names = ("num_views", "chunk_length", "action_dim", "proprio_dim")
    assert tuple(found["sizes"][name] for name in names) == sizes
    assert all(fact["assumed"] for fact in found["facts"].values()) and set(found["facts"]) == set(KINDS)
    assert len(found["statistics"]["action"]) == sizes[2]
    assert len(found["statistics"].get("proprio", [])) == sizes[3]


def test_sizes_are_those_of_the_loaded_policy(good):
    found, policy = findings(good)[1]["sizes"], Policy.from_checkpoint(good)
    assert (found["num_views"], found["chunk_length"]) == (policy.num_views, policy.chunk_length)
    assert (found["action_dim"], found["proprio_dim"]) == (policy.action_dim, policy.proprio_dim)
    assert found["image_size"] == policy.image_size


def test_an_unmerged_adapter_without_its_base_says_what_to_give():
    found = rows(golden_set("lora").folder, verdict="fail")
    assert "base_checkpoint" in found["variant"] and "openvla/openvla-7b" in found["variant"]
    assert set(found) == {"variant"}  # that config.json is missing follows from it


def test_text_names_everything_in_a_page(capsys):
    assert main([str(TINY)]) == 0
    text = capsys.readouterr().out
    for words in (
        "pass  variant",
        "8 proprio, chunks of 8 x 7",
        "assumed; if it is another, set model.num_views",
        "q99",
    ):
        assert words in text
    assert len(text.splitlines()) < 50


def test_a_wrong_argument_exits_with_2_and_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["doctor", "someone/openvla-7b-oft"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("specprune_ros.doctor", run_name="__main__")  # as python -m
    said = capsys.readouterr()
    assert ended.value.code == 2 and "hf download someone/openvla-7b-oft" in said.err
    assert said.err.count("\n") == 1 and said.out == ""


# Facts


def own_robot(folder):
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics(key="lab_aloha_pick")))
    return folder


def test_every_missing_fact_at_once_and_a_snippet_that_works(folder, tmp_path, capsys):
    own_robot(folder)
    code, found = findings(folder)
    assert code == 1 and found["missing_facts"] == list(KINDS)
    (facts,) = [row for row in found["checks"] if row["name"] == "facts"]
    assert all(name in facts["detail"] for name in KINDS)

    main([str(folder)])
    text = capsys.readouterr().out
    assert all(f"an example; {kind.allowed}" in text for kind in KINDS.values())
    snippet = text[text.index("/**/specprune_policy:") :]
    assert isinstance(yaml.safe_load(snippet)["/**/specprune_policy"]["ros__parameters"]["model"]["center_crop"], str)
    (tmp_path / "my_arm.yaml").write_text(snippet)
    robot = read_robot(tmp_path / "my_arm.yaml")
    report = examine(folder, robot, fits=False)
    assert report.verdict != "fail", report.text()
    assert "from the parameter model.chunk_length" in report.text()
    assert Policy.from_checkpoint(folder, **robot.model.facts()).chunk_length == 8


def test_only_what_is_missing_is_in_the_snippet(folder):
    own_robot(folder)
    edit_json(folder / "config.json", lambda content: content.update(chunk_length=5, center_crop=False))
    text = examine(folder, Robot(model=CheckpointConfig(num_views=2)), fits=False).text()
    snippet = text[text.index("/**/specprune_policy:") :]
    assert "chunk_length" not in snippet and "num_views" not in snippet and "center_crop" not in snippet
    assert "action_space: delta_end_effector" in snippet
    assert "from config.json" in text


def test_a_fact_of_another_kind(folder):
    edit_json(folder / "config.json", lambda content: content.update(center_crop="false"))
    assert 'center_crop (config.json) is "false"; it has to be true or false' in rows(folder, verdict="fail")["facts"]


def test_several_keys_have_to_be_chosen_from(folder, tmp_path):
    both = statistics() | statistics(14, 14, key="aloha1_put_X_into_pot_300_demos")
    (folder / "dataset_statistics.json").write_text(json.dumps(both))
    assert "one of: aloha1_put_X_into_pot_300_demos, libero_spatial" in rows(folder, verdict="fail")["unnorm_key"]
    assert findings(folder, "--unnorm-key", KEY)[0] == 0
    (tmp_path / "arm.yaml").write_text(FITTING)
    found = rows(folder, "--unnorm-key", KEY, "--params-file", tmp_path / "arm.yaml")
    assert f"for this robot's 8 proprio numbers: {KEY}\n" in found["unnorm_key"]


# Files


@pytest.mark.parametrize(
    "name",
    ["config.json", "dataset_statistics.json", "tokenizer.json", "model.safetensors", "action_head--100_checkpoint.pt"],
)
def test_a_damaged_file_is_named_once_and_the_rest_is_still_told(folder, name):
    (folder / name).write_text(LFS_POINTER)
    code, found = findings(folder)
    failed = [row for row in found["checks"] if row["verdict"] == "fail"]
    assert code == 1
    assert any(name in row["detail"] and "git lfs pull" in row["detail"] for row in failed)
    if name not in ("dataset_statistics.json", "config.json"):
        assert found["unnorm_key"] == KEY


def test_a_header_that_begins_like_a_web_page(folder):
    """The length of a safetensors header is the first thing in the file."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    longer = 0x13C20  # in the file b" <" and so on
    assert length < longer
    path.write_bytes(longer.to_bytes(8, "little") + content[8 : 8 + length].ljust(longer) + content[8 + length :])
    assert "files" in rows(folder, verdict="pass")
    path.write_bytes(b"\n<html>not found</html>")
    assert "is a web page" in rows(folder, verdict="fail")["files"]


def test_a_link_to_nowhere_and_a_half_download(folder):
    (folder / "special_tokens_map.json").symlink_to("/nowhere/blob")
    (folder / "model.safetensors.incomplete").write_text("half")
    found = rows(folder, verdict="warn")["files"]
    assert "special_tokens_map.json is a link to /nowhere/blob" in found and "(unused)" in found
    assert "model.safetensors.incomplete is half downloaded" in found


def test_mixed_steps(folder):
    (folder / "action_head--100_checkpoint.pt").unlink()
    write_heads(folder, {"action_head": random_heads(Sizes())["action_head"]}, step=200)
    assert "components of different steps" in rows(folder, verdict="fail")["variant"]


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda weights: weights.pop("projector.fc3.bias"), "1 weights are missing, the first for projector.fc3.bias"),
        (lambda weights: weights.update({"film.weight": torch.zeros(3)}), "film.weight has no place"),
        (lambda weights: weights.update({"projector.fc3.bias": torch.zeros(3)}), "has shape (3,), not (32,)"),
    ],
    ids=["missing", "unknown", "misshapen"],
)
def test_weights_that_do_not_fit_are_told_without_loading(folder, change, expected):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    assert expected in rows(folder, verdict="fail")["weights"]


# Statistics


def constant(group, index, value):
    def change(entry):
        for name in ("q01", "q99", "min", "max"):
            entry[group][name][index] = value

    return change


def quantiles_equal(entry):
    entry["proprio"]["q01"][7] = entry["proprio"]["q99"][7] = 0.0


def noise(entry):
    for low, high in (("q01", "q99"), ("min", "max")):
        entry["proprio"][low][3], entry["proprio"][high][3] = 0.0, 1e-6


def gripper(entry):
    for low, high in (("q01", "q99"), ("min", "max")):
        entry["action"][low][6], entry["action"][high][6] = -1.0, 1.0


def edited(entry):
    entry["action"]["min"][2] = 0.0


@pytest.mark.parametrize(
    "change, name, expected",
    [
        (constant("proprio", 6, 0.0), "statistics", "proprio 6 is 0 in all data: the model is given 0"),
        (constant("action", 5, 0.5), "statistics", "action 5 yaw is 0.5 in all data: that is what comes out"),
        (quantiles_equal, "statistics", "proprio 7 has q01 = q99 = 0 although the data has other values"),
        (noise, "statistics", "proprio 3 moved by 1e-06 in the data, which is noise"),
        (edited, "statistics", "action 2 z has min above q01"),
        (gripper, "gripper", "action 6 gripper goes from -1 to 1, not from 0 (closed) to 1"),
        (lambda entry: entry.update(num_transitions=90), "statistics", "90 steps only"),
    ],
    ids=["constant proprio", "constant action", "quantiles", "noise", "edited", "gripper", "few"],
)
def test_odd_statistics_are_warned_of(folder, change, name, expected):
    edit_statistics(folder, change)
    assert expected in rows(folder, verdict="warn")[name]
    assert findings(folder)[0] == 0


def test_unusable_statistics_fail(folder):
    edit_statistics(folder, lambda entry: entry.update(proprio=None))
    assert f"{KEY}.proprio is missing" in rows(folder, verdict="fail")["statistics"]


# The robot


def test_a_parameter_file_that_fits(good, tmp_path):
    (tmp_path / "arm.yaml").write_text(FITTING)
    found = rows(good, "--params-file", tmp_path / "arm.yaml", verdict="pass")
    assert "fit" in found["robot"] and found["instruction"] == "'pick up the bowl'\n"


@pytest.mark.parametrize(
    "changes, name, expected",
    [
        ({"inputs": {"cameras": ["primary"]}}, "robot", "inputs.cameras has 1 names"),
        ({"inputs": {"joint_names": []}}, "robot", "the checkpoint expects 8: name 2 joints"),
        ({"controller": {"action_space": "absolute_joint"}}, "robot", "the checkpoint predicts delta_end_effector"),
        ({"controller": {"gripper_dimensions": [6, 13]}}, "robot", "[6, 13] do not exist in actions of 7 numbers"),
        ({"controller": {"gripper_dimensions": [5, 6]}}, "robot", "needs 6 numbers beside the grippers"),
        ({"controller": {"step_duration": 0.1}}, "units", "pruning.control_rate is 20 Hz"),
        ({"inputs": {"camras": ["primary"]}}, "parameters", "no parameter inputs.camras"),
        ({"instruction": "Pick up the bowl."}, "instruction", "ends with '.'"),
        ({"controller": {"gripper_closed_value": -1.0}}, "gripper", "controller.gripper_closed_value is -1"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(folder, tmp_path, changes, name, expected):
    edit_statistics(
        folder,
        lambda entry: (
            constant("action", 6, 0.0)(entry)
            or entry["action"].update({high: [*entry["action"][high][:6], 1.0] for high in ("q99", "max")})
        ),
    )
    content = yaml.safe_load(FITTING)
    parameters = content["/**/specprune_policy"]["ros__parameters"]
    for group, values in changes.items():
        parameters[group] = {**parameters.get(group, {}), **values} if isinstance(values, dict) else values
    if "gripper_closed_value" in str(changes):
        parameters["controller"]["gripper_dimensions"] = [6]
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(content))
    found = findings(folder, "--params-file", tmp_path / "arm.yaml")[1]["checks"]
    assert any(row["name"] == name and expected in row["detail"] and row["verdict"] != "pass" for row in found), found


def test_a_base_and_a_precision_that_the_node_refuses(folder, tmp_path):
    model = {"base_checkpoint": str(shutil.copytree(folder, tmp_path / "base"))}
    content = yaml.safe_load(FITTING)
    content["/**/specprune_policy"]["ros__parameters"]["model"] = model
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(content))
    arguments = "--params-file", tmp_path / "arm.yaml"
    assert "needs none; leave it out" in rows(folder, *arguments, verdict="fail")["robot"]
    model.clear()
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(content))
    assert quantize([str(folder), str(tmp_path / "small"), "--precision", "int8"]) == 0
    assert "set model.precision to int8" in rows(tmp_path / "small", *arguments, verdict="fail")["robot"]
    model["precision"] = "int8"
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(content))
    assert "robot" in rows(tmp_path / "small", *arguments, verdict="pass")


@pytest.mark.parametrize("text", ["", "a: [", "node: {x: 1}", "other_node: {ros__parameters: {a: 1}}", "\xff"])
def test_a_file_of_no_parameters_exits_with_2(good, tmp_path, text, capsys):
    (tmp_path / "arm.yaml").write_bytes(text.encode("latin-1"))
    assert main([str(good), "--params-file", str(tmp_path / "arm.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("doctor: ") and "arm.yaml" in error and error.count("\n") == 1


@pytest.mark.parametrize("example", ["franka", "ur", "libero", "aloha"])
def test_example_configurations_are_read(example):
    robot = read_robot(TINY.parents[2] / "config" / f"{example}.yaml")
    assert robot.unknown == () and robot.inputs.cameras


# Adapters


def lora_checkpoints(tmp_path, times):
    """A base, and a fine-tune whose weights hold the adapter beside them this many times. Returns (fine-tune, base)."""
    torch.manual_seed(1)
    sizes = Sizes(hidden=64)
    base = write_checkpoint(tmp_path / "base", sizes)
    tuned = shutil.copytree(base, tmp_path / "tuned")
    weights = load_file(base / "model.safetensors")
    factors, names = {}, ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")
    for name in names:
        weight = weights[f"language_model.model.layers.1.{name}.weight"]
        a, b = torch.randn(4, weight.shape[1]) / 30, torch.randn(weight.shape[0], 4) / 30
        module = f"base_model.model.language_model.model.layers.1.{name}"
        factors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        weights[f"language_model.model.layers.1.{name}.weight"] = weight + times * 0.5 * b @ a
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, tuned / "model.safetensors")
    (tuned / "lora_adapter").mkdir()
    save_file(factors, tuned / "lora_adapter" / "adapter_model.safetensors")
    content = {"peft_type": "LORA", "r": 4, "lora_alpha": 2}
    (tuned / "lora_adapter" / "adapter_config.json").write_text(json.dumps(content))
    return tuned, base


@pytest.mark.parametrize(
    "times, verdict, expected",
    [(0, "fail", "never merged"), (1, "pass", "merged once"), (2, "fail", "2.0"), (-1, "fail", "not once")],
)
def test_whether_the_adapter_is_in_the_weights(tmp_path, times, verdict, expected):
    tuned, base = lora_checkpoints(tmp_path, times)
    assert "'--base DIR' compares" in rows(tuned, verdict="pass")["adapter"]  # so little cannot be seen without it
    assert expected in rows(tuned, "--base", base, verdict=verdict)["adapter"]


def test_a_checkpoint_that_is_its_base(good):
    assert "are the base's" in rows(good, "--base", good, verdict="fail")["adapter"]


def test_the_golden_merged_set_keeps_its_adapter():
    assert "merged once" in rows(golden_set("one_view").folder, verdict="pass")["adapter"]


@pytest.mark.parametrize("base", ["nowhere", "tokenizer.json"])
def test_a_base_that_is_no_folder(good, base):
    assert "give " in rows(good, "--base", good / base, verdict="fail")["adapter"]


def test_a_merged_adapter_that_may_not_be_entered(good):
    """The weights load all the same. Root may enter everything, so it looks as another user."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = shutil.copytree(good, Path(name) / "checkpoint")
        (folder / "lora_adapter").mkdir(mode=0)
        folder.chmod(0o755)
        (folder / "config.json").write_text(LFS_POINTER)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            found = check_files(folder)
        finally:
            if root:
                os.seteuid(0)
    adapter = next(row for row in found if "lora_adapter cannot be read (Permission denied)" in row.detail)
    config = next(row for row in found if "config.json" in row.detail)  # the other files are looked at all the same
    assert (adapter.verdict, config.verdict) == ("warn", "fail") and "git lfs pull" in config.detail


def test_weights_without_the_adapter_beside_them_need_no_base_to_be_found(tmp_path):
    root = shutil.copytree(golden_set("lora").root, tmp_path / "lora")
    folder = root / "finetuned--30000_chkpt"
    for file in ("config.json", "model.safetensors"):
        shutil.copy(root / "base" / file, folder)
    assert "never merged" in rows(folder, verdict="fail")["adapter"]
    (folder / "lora_adapter" / "adapter_model.safetensors").write_bytes(b"")
    assert "left-over" in rows(folder, verdict="pass")["adapter"]


# Data


def array_file(save, *arrays, **named) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def episode(tmp_path, **arrays):
    np.savez(tmp_path / "episode.npz", **arrays)
    return tmp_path / "episode.npz"


def test_data_within_the_range_passes(good, tmp_path):
    data = episode(tmp_path, proprio=np.zeros((20, 8)), actions=np.zeros((20, 7)), instruction="pick up the bowl")
    found = rows(good, "--data", data, "--instruction", "pick up the bowl", verdict="pass")
    assert "20 steps of proprio" in found["data"] and "20 steps of action" in found["data"]
    assert "every word is in the 1 instructions" in found["instruction"]


def test_data_outside_the_range_is_named(good, tmp_path):
    proprio = np.zeros((20, 8))
    proprio[:, 2] = 900  # millimetres
    found = rows(good, "--data", episode(tmp_path, proprio=proprio), verdict="warn")
    assert "proprio outside the training data's range: 2 in 100%" in found["data"]


def test_a_constant_number_that_moves_in_the_data_is_named(folder, tmp_path):
    edit_statistics(folder, constant("proprio", 6, 0.0))
    proprio = np.zeros((20, 8))
    proprio[3, 6] = 0.02
    assert "proprio [6] was constant in training" in rows(folder, "--data", episode(tmp_path, proprio=proprio))["data"]


@pytest.mark.parametrize(
    ("proprio", "said"),
    [(np.full((10, 8), np.nan), "proprio holds NaN or Inf"), (np.zeros((0, 8)), "proprio has no steps")],
    ids=["nan", "empty"],
)
def test_data_of_which_nothing_can_be_said(good, tmp_path, proprio, said):
    assert said in rows(good, "--data", episode(tmp_path, proprio=proprio), verdict="warn")["data"]


def test_data_of_another_shape(good, tmp_path):
    assert "shape (20, 7)" in rows(good, "--data", episode(tmp_path, state=np.zeros((20, 7))), verdict="warn")["data"]


@pytest.mark.parametrize("name, text", [("i.txt", "pick up the bowl\n"), ("t.jsonl", '{"task": "pick up the bowl"}\n')])
def test_words_that_the_data_never_had(good, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = rows(good, "--data", tmp_path / name, "--instruction", "grasp the bowl", verdict="warn")["instruction"]
    assert "never had (grasp)" in found


@pytest.mark.parametrize(
    "name, content",
    [
        *(("a.npz", b"PK\x03\x04"), ("a.bag", b""), ("a.jsonl", b"{"), ("a.npz", b"x"), ("a.npz", b"")),
        ("a.npz", array_file(np.save, np.zeros((10, 8)))),
        ("a.npz", array_file(np.savez, proprio=np.zeros((10, 8)), facts="[1, 2]")),
    ],
    ids=["zip", "bag", "json", "text", "empty", "one array", "facts"],
)
def test_data_that_is_none_exits_with_2(good, tmp_path, name, content, capsys):
    (tmp_path / name).write_bytes(content)
    assert main([str(good), "--data", str(tmp_path / name)]) == 2
    assert name in capsys.readouterr().err


# Instructions


@pytest.mark.parametrize(
    "instruction, expected",
    [
        ("pick up the bowl.", "ends with '.'"),
        ("pick up the bowl?", "ends with '?'"),
        ("pick  up the bowl", "double spaces"),
        ("pick up\nthe bowl", "line breaks"),
        ("'pick up the bowl'", "in quotes"),
        ("nimm die Schüssel", "ü"),
        ("pick up the bowl and " * 12 + "go", "tokens long"),
    ],
)
def test_advice(instruction, expected):
    assert any(expected in line for line in instruction_advice(instruction, PromptTokenizer(TINY, 461)))


@pytest.mark.parametrize("instruction", ["pick up the bowl", "Pick up the BOWL", " put the cup on the plate "])
def test_no_advice(instruction):
    assert instruction_advice(instruction, PromptTokenizer(TINY, 461)) == []


def test_a_parameter_of_another_kind_is_refused(tmp_path):
    (tmp_path / "arm.yaml").write_text("/**: {ros__parameters: {model: {chunk_length: long}}}")
    with pytest.raises(ConfigError, match=r"model\.chunk_length"):
        read_robot(tmp_path / "arm.yaml")
