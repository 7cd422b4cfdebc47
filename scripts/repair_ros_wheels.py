# SPDX-License-Identifier: Apache-2.0
"""Point the CMake files of the ros-jazzy wheels at this Python.

The wheels' `*__rosidl_generator_pyExport.cmake` files name the include folders of the machine that built them.
"""

import re
import sys
import sysconfig
from pathlib import Path

import numpy


def main() -> None:
    includes = f"{sysconfig.get_path('include')};{numpy.get_include()}"
    for path in Path(sys.prefix, "share").glob("*/cmake/*__rosidl_generator_pyExport.cmake"):
        text = path.read_text()
        path.write_text(re.sub(r'(INTERFACE_INCLUDE_DIRECTORIES) "/opt/python/[^"]*"', rf'\1 "{includes}"', text))


if __name__ == "__main__":
    main()
