"""Parameters declared from dataclasses: overrides, descriptors, atomic live changes."""

import dataclasses

import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter

from specprune_ros.errors import ConfigError
from specprune_ros.nodes.parameters.declaration import LiveParameters, declare
from specprune_ros.nodes.parameters.unknown import nearest
from specprune_ros.parameters import parameter

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

    def expand(changes):
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
