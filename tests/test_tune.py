"""What the tuner makes of its measurements; the measuring itself wants a GPU."""

from pathlib import Path

import pytest
import yaml

import moe_cute
from benchmarks import tune
from benchmarks.shapes import Case
from benchmarks.tune import Ladder, Launch
from tests.variants import manifest

WIDE, NARROW = Launch(8, 256, 0), Launch(2, 256, 40)


def test_a_launch_that_is_hardly_faster_makes_no_step() -> None:
    assert tune._smooth([{WIDE: 1.0, NARROW: 1.5}, {WIDE: 2.0, NARROW: 1.99}]) == [WIDE, WIDE]


def test_a_faster_launch_makes_a_step() -> None:
    assert tune._smooth([{WIDE: 1.5, NARROW: 1.0}, {WIDE: 2.0, NARROW: 2.5}]) == [NARROW, WIDE]


def test_little_gains_that_add_up_make_a_step() -> None:
    points = [{WIDE: 1.5, NARROW: 1.0}, *[{WIDE: 2.0, NARROW: 2.016}] * 2]
    assert tune._smooth(points) == [NARROW, WIDE, WIDE]


def test_one_outlier_makes_no_two_steps() -> None:
    points = [{WIDE: 1.0, NARROW: 1.1}, {WIDE: 1.0, NARROW: 0.985}, {WIDE: 1.0, NARROW: 1.1}]
    assert tune._smooth(points) == [WIDE, WIDE, WIDE]


def test_a_launch_that_is_not_measured_everywhere_is_chosen_only_where_it_is() -> None:
    assert tune._smooth([{WIDE: 1.5, NARROW: 1.0}, {WIDE: 2.0}]) == [NARROW, WIDE]


def test_steps_lie_halfway_between_the_sizes_by_their_logarithm() -> None:
    measured = {(4096, 4): {WIDE: 2.0, NARROW: 2.5}, (4096, 1): {WIDE: 1.5, NARROW: 1.0}}
    assert list(tune._steps(measured)) == [
        {"outputs": 2 * 4096, "vector_width": 2, "threads": 256, "prefetch_kib": 40},
        {"outputs": "any", "vector_width": 8, "threads": 256, "prefetch_kib": 0},
    ]


def test_shapes_of_one_size_are_one_point() -> None:
    measured = {(2048, 2): {WIDE: 1.0, NARROW: 1.1}, (4096, 1): {WIDE: 1.5, NARROW: 1.2}}
    assert [step["vector_width"] for step in tune._steps(measured)] == [2]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (8, WIDE),  # 16 blocks: each has a multiprocessor to itself
        (64, NARROW),  # 128 blocks for 132 multiprocessors: at another size, some would have two
        (8192, WIDE),  # so many that it is no matter
    ],
)
def test_few_blocks_a_multiprocessor_count_less(tokens: int, expected: Launch) -> None:
    times = tune._beside({WIDE: 1.0, NARROW: 1.02}, 4096, tokens, 132)
    assert min(times, key=lambda launch: times[launch]) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (1, [0, 12]),  # half a KiB for each multiprocessor
        (16, [0, 12]),
        (32, [0, 12, 24]),  # 16 KiB
        (64, [0, 12, 24, 40]),
        (8192, [0, 12, 24, 40]),
    ],
)
def test_more_prefetch_than_there_is_to_read_is_not_measured(tokens: int, expected: list[int]) -> None:
    case, eight = Case("bfloat16", 8, 4096, tokens), Ladder("bfloat16", 8, 8)
    found = [launch for launch, _ in tune.launches(case, eight, manifest()["threads"], 132)]
    assert [each.prefetch_kib for each in found if (each.vector_width, each.threads) == (8, 512)] == expected


def test_what_is_not_measured_takes_as_long_as_its_equal() -> None:
    less, some, all_of_it = (Launch(8, 256, kib) for kib in (0, 12, 24))
    times = tune._with_equals({less: 3.0, some: 2.0, all_of_it: 1.0})
    assert times == {less: 3.0, some: 2.0, all_of_it: 1.0, Launch(8, 256, 40): 1.0}


@pytest.mark.parametrize(
    ("hidden", "topk", "kernel", "epilogue", "named"),
    [
        (4096, 8, 8, "plain", "h4096_k8_v{}"),
        (4100, 8, 8, "plain", "hany_k8_v{}"),
        (4096, 5, 0, "plain", "hany_kany_v{}"),
        (4096, 8, 8, "weighted_shared", "hany_k8_v{}_weighted"),
        (4096, 8, 8, "unpermute_weighted_shared", "hany_k8_v{}_permuted"),
    ],
)
def test_what_is_measured_is_what_such_a_call_gets(
    hidden: int, topk: int, kernel: int, epilogue: str, named: str
) -> None:
    found = tune._kernels(
        Case("bfloat16", topk, hidden, 1, epilogue=epilogue), Ladder("bfloat16", topk, kernel, epilogue)
    )
    expected = {width: f"sum_reduce_cuda_bf16_{named.format(width)}" for width in (8, 4, 2)}
    assert {width: found[width] for width in expected} == expected


def ladder(behind: str, topk: int, threads: int, l2_mib: int = 50) -> dict[str, object]:
    machine = dict.fromkeys(("gpu", "date", "driver", "cuda", "torch"), f"{threads}")
    step = {"outputs": "any", "vector_width": 8, "threads": threads, "prefetch_kib": 0}
    kind = {"behind": behind, "dtype": "bfloat16", "epilogue": "plain", "topk": topk, "l2_mib": l2_mib}
    return {**kind, "measured": machine, "steps": [step]}


def test_ladders_that_are_not_measured_again_stay_and_all_are_in_order(tmp_path: Path) -> None:
    path = tmp_path / "sm90.yaml"
    others = [ladder("ordinary", 2, 64), ladder("ordinary", 8, 64, l2_mib=60)]
    tune._put(path, 90, [ladder("trigger", 8, 64), ladder("ordinary", 8, 64), *others])
    tune._put(path, 90, [ladder("trigger", 8, 128), ladder("ordinary", 8, 128)])
    ladders = yaml.safe_load(path.read_text())["ladders"]
    assert ladders == [others[0], ladder("ordinary", 8, 128), others[1], ladder("trigger", 8, 128)]


def test_every_ladder_has_something_to_measure() -> None:
    assert all(tune.shapes_of(each) == list(tune.SHAPES) for each in tune.LADDERS)


@pytest.mark.parametrize(
    ("gone", "left_out"),
    [
        ({"topk": 4}, {"bfloat16/plain/4"}),
        ({"dtype": "float64"}, {"float64/plain/8", "float64/plain/any"}),
        ({"epilogue": "permuted"}, {"bfloat16/permuted/8"}),
    ],
)
def test_ladders_whose_kernels_left_the_spec_are_left_out(
    monkeypatch: pytest.MonkeyPatch, gone: dict[str, object], left_out: set[str]
) -> None:
    kept = [row for row in moe_cute.variants() if any(row[key] != value for key, value in gone.items())]
    monkeypatch.setattr(moe_cute, "variants", lambda: kept)
    found = {str(each) for each in tune.LADDERS if not tune.shapes_of(each)}
    assert found == left_out


def test_every_ladder_has_a_name_of_its_own() -> None:
    assert len({str(each) for each in tune.LADDERS}) == len(tune.LADDERS)
