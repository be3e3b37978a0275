"""How many threads are picked on machines of other kinds, from copies of their system files."""

from __future__ import annotations

from pathlib import Path

import pytest

from geminate.cores import of_linux, parse_list, pick_threads


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def siblings(lists: list[str]) -> dict[str, str]:
    return {f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": text for i, text in enumerate(lists)}


def capacities(values: list[int]) -> dict[str, str]:
    return {f"sys/devices/system/cpu/cpu{i}/cpu_capacity": str(value) for i, value in enumerate(values)}


def test_hyper_threads_of_a_core_count_once(tmp_path: Path) -> None:
    root = machine(tmp_path, siblings(["0,4", "1,5", "2,6", "3,7"] * 2))
    picked = of_linux(set(range(8)), root)
    assert picked.count == 4 and picked.why == "4 physical cores of 8 usable processors"
    assert of_linux({0, 4, 1}, root).count == 2


def test_slow_cores_are_left_out(tmp_path: Path) -> None:
    phone = machine(tmp_path / "phone", capacities([250, 250, 250, 250, 800, 800, 800, 1024]))
    assert of_linux(set(range(8)), phone).count == 4
    assert of_linux({0, 1}, phone).count == 2, "where only slow cores are allowed, they are the fast ones"
    alike = machine(tmp_path / "board", capacities([1024] * 4))
    assert of_linux(set(range(4)), alike).why == "4 physical cores of 4 usable processors"
    hybrid = machine(
        tmp_path / "laptop",
        siblings(["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"]) | {"sys/devices/cpu_core/cpus": "0-3"},
    )
    picked = of_linux(set(range(8)), hybrid)
    assert picked.count == 2 and "slower ones left out" in picked.why
    assert of_linux({4, 5}, hybrid).count == 2


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 1),
        ({"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, 4),
        ({"sys/fs/cgroup/cpu.max": "900000 100000"}, 4),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"sys/fs/cgroup/cpu.max": "nonsense"}, 4),
    ],
)
def test_quotas_of_containers(tmp_path: Path, files: dict[str, str], count: int) -> None:
    picked = of_linux(set(range(4)), machine(tmp_path, files))
    assert picked.count == count and ("quota" in picked.why) == (count < 4)


def test_lists_of_processors() -> None:
    assert parse_list("0-3,8") == {0, 1, 2, 3, 8} and parse_list("") == set() and parse_list("a-b") == set()


def test_this_machine() -> None:
    assert pick_threads().count >= 1 and pick_threads().why
