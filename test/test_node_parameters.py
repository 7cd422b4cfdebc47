# SPDX-License-Identifier: Apache-2.0
"""Parameters declared from dataclasses: overrides, descriptors, atomic live changes."""

import dataclasses

import pytest

pytest.importorskip("rclpy")

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter

from specprune_ros.checkpoint_config import CheckpointConfig
from specprune_ros.errors import ConfigError
from specprune_ros.nodes.parameters.declaration import LiveParameters, declare
from specprune_ros.nodes.parameters.pruning import declare_pruning, expand_preset
from specprune_ros.nodes.parameters.unknown import nearest
from specprune_ros.parameters import parameter
from specprune_ros.pruning.config import DEFAULT_PRESET, PRESETS, PruningConfig

pytestmark = pytest.mark.ros


@dataclasses.dataclass(frozen=True)
class Motor:
    speed: float = parameter(1.0, "Largest speed.", minimum=0.0, maximum=5.0, unit="m/s")
    gear: int = parameter(2, "Gear.", minimum=1)
    mode: str = parameter("soft", "Mode.", choices=("soft", "hard"))
    joints: tuple[str, ...] = parameter((), "Joint names.")
    gains: tuple[float, ...] = parameter((1.0, 2.0), "Gains.", minimum=0.0)
    port: str = parameter("a", "Port.", live=False)


@pytest.fixture
def make_node():
    context = rclpy.Context()
    context.init()
    nodes = []

    def make(*arguments):
        nodes.append(Node("motor", context=context, cli_args=["--ros-args", *arguments] if arguments else None))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    context.shutdown()


def test_defaults_and_descriptors(make_node):
    node = make_node()
    assert declare(node, "motor", Motor) == Motor()
    speed = node.describe_parameter("motor.speed")
    assert "Largest speed. [m/s]" in speed.description and speed.additional_constraints == "0 to 5"
    assert (speed.floating_point_range[0].from_value, speed.floating_point_range[0].to_value) == (0.0, 5.0)
    assert node.describe_parameter("motor.gear").integer_range[0].from_value == 1
    assert "next configure" in node.describe_parameter("motor.port").description
    assert node.get_parameter("motor.joints").value == []


def test_overrides_from_the_command_line(make_node):
    node = make_node("-p", "motor.speed:=3", "-p", 'motor.joints:=["a", "b"]', "-p", "motor.gains:=[1, 2, 3]")
    motor = declare(node, "motor", Motor)
    assert motor == Motor(speed=3.0, joints=("a", "b"), gains=(1.0, 2.0, 3.0))
    assert node.get_parameter("motor.speed").value == 3.0


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("motor.speed:=9.0", "motor.speed = 9.0 is outside the allowed range; allowed: 0 to 5"),
        ("motor.speed:=fast", "motor.speed = 'fast' has the wrong type"),
        ("motor.mode:=wild", "allowed: one of soft, hard"),
        ("motor.gear:=0", "motor.gear = 0"),
    ],
)
def test_bad_override_is_named(make_node, argument, words):
    with pytest.raises(ConfigError, match="motor") as error:
        declare(make_node("-p", argument), "motor", Motor)
    assert words in str(error.value) and "\n" not in str(error.value)


def live_motor(node, **hooks):
    return LiveParameters(node, {"motor": (declare(node, "motor", Motor),)}, **hooks)


def test_live_change_is_all_or_nothing(make_node):
    node = make_node()
    changed = []
    live = live_motor(node, changed=changed.append)
    good, bad = Parameter("motor.speed", value=2.0), Parameter("motor.mode", value="wild")
    refused = node.set_parameters_atomically([good, bad])
    assert not refused.successful and "motor.mode = 'wild'" in refused.reason and "soft, hard" in refused.reason
    assert live.running(Motor) == Motor() and node.get_parameter("motor.speed").value == 1.0 and not changed

    assert node.set_parameters_atomically([good, Parameter("motor.mode", value="hard")]).successful
    assert live.running(Motor) == Motor(speed=2.0, mode="hard")
    assert changed == [{"motor.speed", "motor.mode"}]


@pytest.mark.parametrize(
    "bad",
    [
        Parameter("motor.speed", value=float("nan")),
        Parameter("motor.speed", value=-1.0),
        Parameter("motor.speed", value="fast"),
        Parameter("motor.gains", value=[1.0, -1.0]),
        Parameter("motor.gear", value=True),
        Parameter("motor.speed"),
    ],
)
def test_bad_live_values_are_refused(make_node, bad):
    node = make_node()
    live = live_motor(node)
    result = node.set_parameters_atomically([bad])
    assert not result.successful and result.reason
    assert live.running(Motor) == Motor()


def test_integers_and_empty_lists_are_understood(make_node):
    node = make_node()
    live = live_motor(node)
    values = [
        Parameter("motor.speed", value=2),
        Parameter("motor.gains", value=[3]),
        Parameter("motor.joints", value=[]),
    ]
    assert node.set_parameters_atomically(values).successful
    assert live.running(Motor) == Motor(speed=2.0, gains=(3.0,))


def test_reload_fields_wait_for_configure(make_node):
    node = make_node()
    live = live_motor(node)
    assert node.set_parameters([Parameter("motor.port", value="b"), Parameter("motor.gear", value=3)])[0].successful
    assert live.running(Motor) == Motor(gear=3) and live.declared(Motor) == Motor(gear=3, port="b")
    live.adopt()
    assert live.running(Motor).port == "b"


def test_hooks_refuse_and_expand(make_node):
    def validate(live, proposed):
        if proposed[Motor].gear == 4:
            raise ConfigError("motor.gear = 4 is broken")

    def expand(changes, current):
        return {"motor.gear": 5} if changes.get("motor.mode") == "hard" else {}

    node = make_node()
    live = live_motor(node, validate=validate, expand=expand)
    assert node.set_parameters_atomically([Parameter("motor.gear", value=4)]).reason == "motor.gear = 4 is broken"
    hard = [Parameter("motor.mode", value="hard"), Parameter("motor.speed", value=1.5)]
    assert node.set_parameters_atomically(hard).successful
    assert live.running(Motor) == Motor(mode="hard", gear=5, speed=1.5)
    assert node.get_parameter("motor.gear").value == 5


@pytest.mark.parametrize(
    ("name", "guess"),
    [("motor.sped", "motor.speed"), ("speed", "motor.speed"), ("engine.gear", "motor.gear"), ("colour", "")],
)
def test_unknown_names_get_the_nearest_one(name, guess):
    assert nearest(name, ["motor.speed", "motor.gear", "use_sim_time"]) == guess


def test_misspelled_parameters_are_warned_about(make_node, capfd):
    arguments = ("-p", "motor.sped:=3.0", "-p", "motor.gear:=3", "-p", "use_sim_time:=false")
    live_motor(make_node(*arguments, "-p", "qos_overrides./joint_states.subscription.depth:=5"))
    said = capfd.readouterr().err
    assert said.count("there is no parameter") == 1
    assert "there is no parameter motor.sped, it is ignored; did you mean motor.speed?" in said


def call_set_parameters(node, *parameters):
    """What `ros2 param set` and `ros2 param load` send, answered by the node's own callback."""
    (service,) = (service for service in node.services if service.srv_type is SetParameters)
    request = SetParameters.Request(parameters=[parameter.to_parameter_msg() for parameter in parameters])
    return service.callback(request, SetParameters.Response()).results


def test_a_loaded_file_is_set_together_or_not_at_all(make_node):
    node = make_node()
    live = live_motor(node)
    good, bad = Parameter("motor.speed", value=2.0), Parameter("motor.mode", value="wild")
    for unknown in (bad, Parameter("motor.sped", value=1.0)):
        results = call_set_parameters(node, good, unknown)
        assert not any(result.successful for result in results)
        assert all("nothing was set: " in result.reason and unknown.name in result.reason for result in results), (
            results
        )
        assert live.running(Motor) == Motor()
    assert all(result.successful for result in call_set_parameters(node, good, Parameter("motor.gear", value=3)))
    assert live.running(Motor) == Motor(speed=2.0, gear=3)


def test_answer_says_what_waits_for_configure(make_node):
    node = make_node()
    live_motor(node)
    live, waits = call_set_parameters(node, Parameter("motor.gear", value=3), Parameter("motor.port", value="b"))
    assert live.successful and live.reason == "", live
    assert waits.successful and "in force at the next configure" in waits.reason
    (again,) = call_set_parameters(node, Parameter("motor.port", value="b"))
    assert again.successful and again.reason == ""


def test_what_has_its_value_already_may_be_read_only(make_node):
    node = make_node()
    live_motor(node)
    node.declare_parameter("fixed", 1, ParameterDescriptor(read_only=True))
    results = call_set_parameters(node, Parameter("fixed", value=1), Parameter("motor.speed", value=2))
    assert all(result.successful for result in results), results
    assert not call_set_parameters(node, Parameter("fixed", value=2))[0].successful


@pytest.mark.parametrize("order", [("budget_tokens", "preset"), ("preset", "budget_tokens")])
def test_loading_a_file_is_what_starting_with_it_is(make_node, order):
    given = {"preset": "fast", "budget_tokens": 100}
    started = PolicyParameters(make_node(*("-p", "pruning.preset:=fast", "-p", "pruning.budget_tokens:=100")))
    loaded = PolicyParameters(make_node())
    results = call_set_parameters(loaded.node, *(Parameter(f"pruning.{name}", value=given[name]) for name in order))
    assert all(result.successful for result in results)
    assert loaded.config == started.config and loaded.config.budget_tokens == 100 and loaded.config.preset == ""


def test_what_a_file_says_beside_a_preset_counts_also_where_it_is_so_already(make_node):
    given = {"preset": "fast", "keep_ratio": 0.9, "refresh_interval": 0}
    arguments = [part for name, value in given.items() for part in ("-p", f"pruning.{name}:={value}")]
    started, loaded = PolicyParameters(make_node(*arguments)), PolicyParameters(make_node())
    assert loaded.config.keep_ratio == 0.9 and loaded.config.refresh_interval == 0
    results = call_set_parameters(loaded.node, *as_parameters(given))
    assert all(result.successful for result in results)
    assert loaded.config == started.config and loaded.config.preset == ""


def test_a_quality_of_service_is_not_said_to_be_set(make_node):
    node = make_node()
    live = live_motor(node)
    name = "qos_overrides./joint_states.subscription.depth"
    late, speed = call_set_parameters(node, Parameter(name, value=5), Parameter("motor.speed", value=2.0))
    assert not late.successful and "put it into the parameter file" in late.reason
    assert speed.successful and live.running(Motor).speed == 2.0
    node.declare_parameter(name, 5)  # as its subscription does
    assert call_set_parameters(node, Parameter(name, value=5))[0].successful  # of a dump


@pytest.mark.parametrize("read", [True, False])
def test_on_and_off_survive_a_dump(make_node, read):
    """`ros2 param load` reads them as true and false, however they are quoted."""
    node = make_node()
    live = LiveParameters(node, {"model": (declare(node, "model", CheckpointConfig),)})
    assert call_set_parameters(node, Parameter("model.center_crop", value=read))[0].successful
    assert live.declared(CheckpointConfig).center_crop == ("on" if read else "off")
    assert not call_set_parameters(node, Parameter("model.checkpoint", value=read))[0].successful


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("by_hand", [{}, {"budget_tokens": 77}])
def test_a_dump_loads_without_errors_into_any_state(make_node, preset, by_hand):
    source, target = PolicyParameters(make_node()), PolicyParameters(make_node())
    changes = {"preset": preset, **by_hand}
    assert all(r.successful for r in call_set_parameters(source.node, *as_parameters(changes)))
    dump = [source.node.get_parameter(name) for name in sorted(source.node._parameters)]
    results = call_set_parameters(target.node, *dump)
    assert all(result.successful for result in results), results[0].reason
    assert target.config == source.config and target.config.preset == ("" if by_hand else preset)


def test_setting_what_is_keeps_the_presets_name(make_node):
    policy = PolicyParameters(make_node())
    same = Parameter("pruning.budget_tokens", value=policy.config.budget_tokens)
    assert policy.node.set_parameters_atomically([same]).successful
    assert policy.config.preset == DEFAULT_PRESET
    assert policy.node.set_parameters_atomically(as_parameters({"budget_tokens": 77})[:1]).successful
    assert policy.config.preset == ""


class PolicyParameters:
    """The pruning parameters of the policy node on another node."""

    def __init__(self, node):
        self.node = node
        self._live = LiveParameters(node, {"pruning": declare_pruning(node)}, expand=expand_preset)

    @property
    def config(self):
        return self._live.declared(PruningConfig)


def as_parameters(values):
    return [Parameter(f"pruning.{name}", value=value) for name, value in values.items()]
