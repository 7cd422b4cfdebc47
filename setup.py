# SPDX-License-Identifier: Apache-2.0
"""Serves pip. Where ROS 2 is found, runs the same CMakeLists.txt as colcon, so that the wheel has the interfaces too.

Without ROS the wheel has the policy, which needs none. What pip needs beyond this is in setup.cfg.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build import build

ROOT = Path(__file__).parent.resolve()
PREFIXES = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
HAS_ROS = any(Path(prefix, "share", "rosidl_default_generators").is_dir() for prefix in PREFIXES)


def files_below(folder: Path, destination: Path) -> list[tuple[str, list[str]]]:
    """Every file below `folder`, as data_files that go to the same place below `destination` of the prefix."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [(str(destination / path.parent.relative_to(folder)), [os.path.relpath(path, ROOT)]) for path in paths]


def cmake_environment() -> dict[str, str]:
    """The environment without pip's build isolation, which hides the Python packages of ROS."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = [f"{prefix}/lib/{version}/{kind}-packages" for prefix in PREFIXES for kind in ("site", "dist")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}


class BuildWithInterfaces(build):
    """Installs with CMake into a staging prefix, then hands everything in it to the wheel."""

    def run(self) -> None:
        super().run()
        stage = Path(self.build_temp).resolve() / "stage"
        shutil.rmtree(stage, ignore_errors=True)
        self.cmake(Path(self.build_temp, "cmake").resolve(), stage)

        for packages in [*stage.glob("lib/python3*/site-packages"), *stage.glob("**/dist-packages")]:
            shutil.copytree(packages / "specprune_ros", Path(self.build_lib, "specprune_ros"), dirs_exist_ok=True)
            shutil.rmtree(packages)
        self.distribution.data_files = files_below(stage, Path())

    def cmake(self, binary: Path, stage: Path) -> None:
        options = {
            "BUILD_TESTING": "OFF",
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_INSTALL_PREFIX": str(stage),
            "CMAKE_PREFIX_PATH": ";".join(PREFIXES),
            "Python3_EXECUTABLE": sys.executable,
        }
        definitions = [f"-D{name}={value}" for name, value in options.items()]
        subprocess.run(["cmake", "-S", str(ROOT), "-B", str(binary), *definitions], check=True, env=cmake_environment())
        subprocess.run(["cmake", "--build", binary, "--target", "install"], check=True, env=cmake_environment())


class DistributionWithInterfaces(Distribution):
    """The interfaces are compiled, so the wheel belongs to one platform and Python."""

    def has_ext_modules(self) -> bool:
        return True


if HAS_ROS:
    setup(cmdclass={"build": BuildWithInterfaces}, distclass=DistributionWithInterfaces)
else:
    share = Path("share", "specprune_ros")
    folders = {"launch": "launch", "config": "config", "specprune_ros/pruning/presets": "config/pruning"}
    setup(
        data_files=[file for source, target in folders.items() for file in files_below(ROOT / source, share / target)]
    )
