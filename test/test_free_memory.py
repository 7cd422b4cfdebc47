# SPDX-License-Identifier: Apache-2.0
"""The memory that a container leaves, from files as the kernel writes them."""

import pytest

from specprune_ros.errors import UserError
from specprune_ros.free_memory import available_bytes

GIB = 2**30
V1_NONE = "9223372036854771712\n"


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def root(tmp_path):
    """A machine with 32 GiB free, without cgroups."""
    write(tmp_path, "proc/meminfo", f"MemTotal: {64 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {32 * 2**20} kB\n")
    return tmp_path


def v2(root, group, limit, used, cache=0):
    write(root, f"sys/fs/cgroup{group}/memory.max", f"{limit}\n")
    write(root, f"sys/fs/cgroup{group}/memory.current", f"{used}\n")
    write(root, f"sys/fs/cgroup{group}/memory.stat", f"anon 1\ninactive_file {cache}\n")


def v1(root, group, limit, used, cache=0):
    write(root, f"sys/fs/cgroup/memory{group}/memory.limit_in_bytes", f"{limit}\n")
    write(root, f"sys/fs/cgroup/memory{group}/memory.usage_in_bytes", f"{used}\n")
    write(root, f"sys/fs/cgroup/memory{group}/memory.stat", f"inactive_file 5\ntotal_inactive_file {cache}\n")


def test_a_machine_without_cgroups(root):
    assert available_bytes(root) == 32 * GIB


def test_a_container_of_version_2(root):
    write(root, "proc/self/cgroup", "0::/\n")
    v2(root, "", 16 * GIB, 10 * GIB, cache=4 * GIB)  # the page cache is given back
    assert available_bytes(root) == 10 * GIB


def test_a_container_of_version_1(root):
    write(root, "proc/self/cgroup", "9:name=systemd:/\n4:memory:/\n3:cpuset,cpu:/\n")
    v1(root, "", 16 * GIB, 10 * GIB, cache=4 * GIB)
    assert available_bytes(root) == 10 * GIB


def test_the_tightest_of_the_groups_above_counts(root):
    write(root, "proc/self/cgroup", "0::/user.slice/me.scope\n")
    v2(root, "/user.slice/me.scope", "max", GIB)
    v2(root, "/user.slice", 3 * GIB, 2 * GIB)
    assert available_bytes(root) == GIB
    v2(root, "/user.slice/me.scope", GIB // 2, GIB // 4)
    assert available_bytes(root) == GIB // 4


def test_a_path_of_the_host_that_the_container_does_not_see(root):
    write(root, "proc/self/cgroup", "4:memory:/docker/0123abcd\n")
    v1(root, "", 8 * GIB, 2 * GIB)
    assert available_bytes(root) == 6 * GIB


def test_no_limit(root):
    write(root, "proc/self/cgroup", "0::/\n4:memory:/\n")
    v2(root, "", "max", GIB)
    v1(root, "", V1_NONE.strip(), GIB)
    assert available_bytes(root) == 32 * GIB


def test_more_used_than_allowed_is_nothing_left(root):
    write(root, "proc/self/cgroup", "0::/\n")
    v2(root, "", GIB, 2 * GIB)
    assert available_bytes(root) == 0


def test_this_machine():
    assert available_bytes() > 2**20


def test_a_system_without_meminfo(tmp_path):
    with pytest.raises(UserError, match="use Linux"):
        available_bytes(tmp_path)
