"""How ladders are fitted to measured times, and where both are kept."""

import lzma
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks import ladders, sizes, tune
from benchmarks.__main__ import COMMITTED_TIMES, TUNING, app
from benchmarks.ladders import Launch, Size

WIDE, NARROW = Launch(8, 256, 0), Launch(2, 256, 40)
MACHINE = dict.fromkeys(("gpu", "date", "driver", "cuda", "torch"), "some")


def measured(hidden: int, tokens: int, wide_us: float, narrow_us: float) -> Size:
    times = {behind: {WIDE: wide_us, NARROW: narrow_us} for behind in ("itself", "trigger", "ordinary")}
    return Size(90, "bfloat16", "plain", 8, 50, 132, MACHINE, hidden, tokens, times)


def test_a_launch_that_is_hardly_faster_makes_no_step() -> None:
    assert ladders._smooth([{WIDE: 1.0, NARROW: 1.5}, {WIDE: 2.0, NARROW: 1.99}]) == [WIDE, WIDE]


def test_a_faster_launch_makes_a_step() -> None:
    assert ladders._smooth([{WIDE: 1.5, NARROW: 1.0}, {WIDE: 2.0, NARROW: 2.5}]) == [NARROW, WIDE]


def test_little_gains_that_add_up_make_a_step() -> None:
    points = [{WIDE: 1.5, NARROW: 1.0}, *[{WIDE: 2.0, NARROW: 2.016}] * 2]
    assert ladders._smooth(points) == [NARROW, WIDE, WIDE]


def test_one_outlier_makes_no_two_steps() -> None:
    points = [{WIDE: 1.0, NARROW: 1.1}, {WIDE: 1.0, NARROW: 0.985}, {WIDE: 1.0, NARROW: 1.1}]
    assert ladders._smooth(points) == [WIDE, WIDE, WIDE]


def test_a_launch_that_is_not_measured_everywhere_is_chosen_only_where_it_is() -> None:
    assert ladders._smooth([{WIDE: 1.5, NARROW: 1.0}, {WIDE: 2.0}]) == [NARROW, WIDE]


def test_steps_lie_halfway_between_the_sizes_by_their_logarithm() -> None:
    measured = [(4 * 4096, {WIDE: 2.0, NARROW: 2.5}), (4096, {WIDE: 1.5, NARROW: 1.0})]
    assert list(ladders._steps(measured)) == [
        {"outputs": 2 * 4096, "vector_width": 2, "threads": 256, "prefetch_kib": 40},
        {"outputs": "any", "vector_width": 8, "threads": 256, "prefetch_kib": 0},
    ]


def test_shapes_of_one_size_are_one_point() -> None:
    measured = [(4096, {WIDE: 1.0, NARROW: 1.1}), (4096, {WIDE: 1.5, NARROW: 1.2})]
    assert [step["vector_width"] for step in ladders._steps(measured)] == [2]
    # Each counts as much, in whatever order: 27 ** (1 / 3) against 16 ** (1 / 3).
    three = [(4096, {WIDE: 1.0, NARROW: 4.0}), (4096, {WIDE: 1.0, NARROW: 4.0}), (4096, {WIDE: 27.0, NARROW: 1.0})]
    for order in permutations(three):
        assert [step["vector_width"] for step in ladders._steps(order)] == [2]


def test_of_equal_launches_the_one_that_prefetches_more_is_taken() -> None:
    less, more = Launch(8, 256, 12), Launch(8, 256, 40)
    (step,) = ladders._steps([(4096, {less: 1.0, more: 1.0, NARROW: 2.0})])
    assert step["prefetch_kib"] == 40


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (8, WIDE),  # 16 blocks: each has a multiprocessor to itself
        (64, NARROW),  # 128 blocks for 132 multiprocessors: at another size, some would have two
        (8192, WIDE),  # so many that it is no matter
    ],
)
def test_few_blocks_a_multiprocessor_count_less(tokens: int, expected: Launch) -> None:
    times = ladders._beside({WIDE: 1.0, NARROW: 1.02}, measured(4096, tokens, 1.0, 1.02))
    assert min(times, key=lambda launch: times[launch]) == expected


def test_cold_counts_twice_as_much_as_behind_a_kernel_that_triggers() -> None:
    size = replace(measured(4096, 1, 8.0, 1.0), times={"itself": {WIDE: 8.0}, "trigger": {WIDE: 1.0}})
    assert ladders.deciding("trigger", size.times) == {WIDE: pytest.approx(4.0)}
    hidden_altogether = replace(size, times={"itself": {WIDE: 0.8}, "trigger": {WIDE: -0.1}})
    assert ladders.deciding("trigger", hidden_altogether.times) == {WIDE: pytest.approx(0.4)}
    assert ladders.deciding("ordinary", {"ordinary": {WIDE: -0.1}}) == {WIDE: 0.1}


# Where ladders are kept


def ladder(behind: str, topk: int, threads: int, l2_mib: int = 50) -> dict[str, object]:
    machine = dict.fromkeys(("gpu", "date", "driver", "cuda", "torch"), f"{threads}")
    step = {"outputs": "any", "vector_width": 8, "threads": threads, "prefetch_kib": 0}
    kind = {"behind": behind, "dtype": "bfloat16", "epilogue": "plain", "topk": topk, "l2_mib": l2_mib}
    return {**kind, "measured": machine, "steps": [step]}


def test_ladders_that_are_not_measured_again_stay_and_all_are_in_order(tmp_path: Path) -> None:
    path = tmp_path / "sm90.yaml"
    others = [ladder("ordinary", 2, 64), ladder("ordinary", 8, 64, l2_mib=60)]
    ladders.put(path, 90, [ladder("trigger", 8, 64), ladder("ordinary", 8, 64), *others])
    ladders.put(path, 90, [ladder("trigger", 8, 128), ladder("ordinary", 8, 128)])
    found = yaml.safe_load(path.read_text())["ladders"]
    assert found == [others[0], ladder("ordinary", 8, 128), others[1], ladder("trigger", 8, 128)]


# Where times are kept


def all_sizes(wide_us: float, narrow_us: float) -> list[Size]:
    return [measured(hidden, tokens, wide_us, narrow_us) for hidden, tokens in tune.SHAPES]


def test_times_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new" / "times.jsonl"
    first, second = measured(4096, 1, 1.25, 0.0001), replace(measured(2048, 3, -0.5, 7.0), topk="any")
    sizes.append(path, [first])
    sizes.append(path, [second])
    assert sizes.read(path) == [first, second]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nonsense", "Expecting value"),
        ("[]", "integer"),
        ("{}", "'times'"),
        ('{"times": {"itself": [[8, 256, 1.0]]}}', "prefetch_kib"),
        ('{"times": {}, "gpu": "some"}', "gpu"),
    ],
)
def test_a_line_that_is_no_size_is_named(line: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "times.jsonl"
    sizes.append(path, [measured(4096, 1, 1.0, 2.0)])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(
        sizes.SizesError, match=rf"times\.jsonl:2: was no size \(.*({why}).*\); allowed: what `tune` wrote"
    ):
        sizes.read(path)


def test_the_last_times_of_a_size_count() -> None:
    other = replace(measured(4096, 1, 1.0, 2.0), l2_mib=60)
    found = ladders.by_kernels([measured(4096, 1, 1.0, 2.0), other, measured(4096, 1, 3.0, 2.0)])
    assert found == [[measured(4096, 1, 3.0, 2.0)], [other]]


def test_fit_needs_no_gpu_but_every_size(tmp_path: Path) -> None:
    times, path = tmp_path / "times.jsonl", tmp_path / "sm90.yaml"
    *most, last = all_sizes(2.0, 1.0)
    sizes.append(times, most)
    fit = ["fit", str(times), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, fit)
    assert result.exit_code == 0 and "bfloat16/plain/8, L2 of 50 MiB: left as it is" in result.output
    assert not path.exists()
    sizes.append(times, [last])
    assert CliRunner().invoke(app, fit).exit_code == 0
    steps = [{"outputs": "any", "vector_width": 2, "threads": 256, "prefetch_kib": 40}]
    found = yaml.safe_load(path.read_text())["ladders"]
    assert [(ladder["behind"], ladder["steps"]) for ladder in found] == [("ordinary", steps), ("trigger", steps)]


def test_fit_leaves_out_what_the_spec_does_not_build(tmp_path: Path) -> None:
    """The generator would refuse the ladders."""
    times, path = tmp_path / "times.jsonl", tmp_path / "sm90.yaml"
    other = [replace(size, topk=31) for size in all_sizes(2.0, 1.0)]
    fast = {Launch(2, 480, 40): 0.1}
    unlisted = [
        replace(size, times={behind: each | fast for behind, each in size.times.items()})
        for size in all_sizes(2.0, 1.0)
    ]
    sizes.append(times, [*other, *unlisted])
    result = CliRunner().invoke(app, ["fit", str(times), "--out", str(tmp_path)])
    assert result.exit_code == 0
    assert "bfloat16/plain/31, L2 of 50 MiB: left as it is: the spec does not build it" in result.output
    found = yaml.safe_load(path.read_text())["ladders"]
    assert {(each["topk"], step["threads"]) for each in found for step in each["steps"]} == {(8, 256)}


def test_gpus_of_one_cache_are_not_mixed() -> None:
    here, there = measured(4096, 1, 1.0, 2.0), replace(measured(4096, 4, 1.0, 2.0), multiprocessors=114)
    assert ladders.by_kernels([here, there]) == [[here], [there]]


def test_fit_names_a_tuning_file_that_cannot_be_added_to(tmp_path: Path) -> None:
    sizes.append(tmp_path / "times.jsonl", all_sizes(2.0, 1.0))
    (tmp_path / "sm90.yaml").write_text("edition: 2\n")
    result = CliRunner().invoke(app, ["fit", str(tmp_path / "times.jsonl"), "--out", str(tmp_path)])
    assert result.exit_code == 2 and "sm90.yaml:1:10: edition: found 2; allowed: 1" in result.output


def test_the_ladders_are_what_their_times_say() -> None:
    """Those of the committed times that have all sizes; another measurement stands for itself."""
    kept = yaml.safe_load((TUNING / "sm90.yaml").read_text())["ladders"]
    groups = ladders.by_kernels(sizes.read(COMMITTED_TIMES))
    complete = [group for group in groups if tune.is_complete(group)]
    assert complete
    for found in (ladder for group in complete for ladder in ladders.fitted(group)):
        same = [ladder for ladder in kept if all(ladder[key] == found[key] for key in found if key != "steps")]
        assert same in ([], [found])


def test_compressed_times(tmp_path: Path) -> None:
    plain, packed = tmp_path / "times.jsonl", tmp_path / "times.jsonl.xz"
    sizes.append(plain, [measured(4096, 1, 1.25, 2.0)])
    packed.write_bytes(lzma.compress(plain.read_bytes()))
    assert sizes.read(packed) == sizes.read(plain)
    packed.write_bytes(plain.read_bytes())
    with pytest.raises(sizes.SizesError, match=r"xz: was unreadable"):
        sizes.read(packed)


def test_times_that_are_missing_are_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["fit", str(tmp_path / "none.jsonl")])
    assert result.exit_code == 2 and "none.jsonl: was unreadable" in result.output


@pytest.mark.parametrize("text", ["4096", "4096x", "4096x16x2", "0x16", "4096x-1", "4096x16,x"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    result = CliRunner().invoke(app, ["tune", "--sizes", text])
    assert result.exit_code == 2 and "HIDDENxTOKENS" in result.output
