"""What the tuner measures; the measuring itself wants a GPU."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import moe_cute
from benchmarks import producers, sizes, tune
from benchmarks.ladders import Launch
from benchmarks.measure import Sample
from benchmarks.shapes import Case
from benchmarks.tune import Ladder
from generator.problems import BadFile
from tests.variants import manifest

BEST = {"itself": Launch(4, 128, 0), "trigger": Launch(8, 256, 12), "ordinary": Launch(2, 64, 0)}


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One on which the best launch takes 1 us, those that differ by their prefetching alone 1.02, and others 8. Returns
    how many launches each measurement was asked for."""
    asked = []

    def samples(behind: str, calls: Mapping[Launch, object]) -> dict[Launch, Sample]:
        def us(launch: Launch) -> float:
            best = BEST[behind]
            like_it = (launch.vector_width, launch.threads) == (best.vector_width, best.threads)
            return 1.0 if launch == best else 1.02 if like_it else 8.0

        asked.append(len(calls))
        return {launch: Sample.of([us(launch)] * 2) for launch in calls}

    def cold(calls: Mapping[Launch, object], *_: object) -> dict[Launch, Sample]:
        return samples("itself", calls)

    def chain(calls: Mapping[Launch, object], operands: object, producer: object, *_: object) -> dict[Launch, Sample]:
        return samples("ordinary" if producer is producers.produce else "trigger", calls)

    facts = {"device": "some GPU", "date": "2026-11-27 12:00 UTC", "driver": "580", "cuda": "13.0"}
    properties = SimpleNamespace(multi_processor_count=132, L2_cache_size=50 << 20)
    monkeypatch.setattr(producers, "measure_cold", cold)
    monkeypatch.setattr(producers, "measure_chain", chain)
    monkeypatch.setattr(tune.environment, "describe", lambda *_: facts)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    return asked


def test_ladders_are_written_once_all_sizes_are_measured(
    a_gpu: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tune, "SHAPES", ((4096, 1), (2048, 3)))
    path, times = tmp_path / "sm90.yaml", tmp_path / "times.jsonl"
    eight = Ladder("bfloat16", 8, 8)

    def measure(*shapes: tuple[int, int]) -> Sequence[Ladder]:
        known = sizes.read(times) if times.exists() else []
        return tune.tune(tmp_path, times, known, torch.device("cpu"), manifest()["threads"], [eight], shapes)

    assert measure((4096, 1)) == [eight]
    assert not path.exists()
    assert measure((2048, 3)) == []
    ordinary, trigger = yaml.safe_load(path.read_text())["ladders"]
    chosen = [(each["vector_width"], each["threads"]) for each in (ordinary["steps"][0], trigger["steps"][0])]
    assert chosen == [(2, 64), (4, 128)]  # cold counts more
    assert trigger["l2_mib"] == 50 and trigger["measured"]["date"] == "2026-11-27"
    assert [(size.hidden, size.tokens) for size in sizes.read(times)] == [(4096, 1), (2048, 3)]
    every, near = a_gpu[0], a_gpu[2]
    assert a_gpu[:4] == [every, every, near, near] and 0 < near < every


def test_a_tuning_file_that_cannot_be_added_to_is_refused_before_anything_is_measured(
    a_gpu: list[int], tmp_path: Path
) -> None:
    path, times = tmp_path / "sm90.yaml", tmp_path / "times.jsonl"
    path.write_text("edition: 2\n")
    with pytest.raises(BadFile, match=r"sm90\.yaml:1:10: edition: found 2; allowed: 1"):
        tune.tune(tmp_path, times, [], torch.device("cpu"), manifest()["threads"])
    assert a_gpu == [] and not times.exists()
    assert path.read_text() == "edition: 2\n"


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


def test_every_ladder_has_something_to_measure() -> None:
    """All sizes, but for those whose kernels the spec no longer has."""
    built = {(row["dtype"], row["epilogue"], row["topk"] or "any") for row in moe_cute.variants()}
    for each in tune.LADDERS:
        assert tune.shapes_of(each) == (list(tune.SHAPES) if each.key in built else []), each


@pytest.mark.parametrize(
    ("gone", "left_out"),
    [
        ({"topk": 4}, {"bfloat16/plain/4"}),
        ({"dtype": "float64"}, {"float64/plain/8", "float64/plain/any"}),
        ({"epilogue": "permuted"}, {"bfloat16/permuted/8", "float32/permuted/8"}),
    ],
)
def test_ladders_whose_kernels_left_the_spec_are_left_out(
    monkeypatch: pytest.MonkeyPatch, gone: dict[str, object], left_out: set[str]
) -> None:
    gone_before = {str(each) for each in tune.LADDERS if not tune.shapes_of(each)}
    kept = [row for row in moe_cute.variants() if any(row[key] != value for key, value in gone.items())]
    monkeypatch.setattr(moe_cute, "variants", lambda: kept)
    found = {str(each) for each in tune.LADDERS if not tune.shapes_of(each)}
    assert found == gone_before | left_out


def test_every_ladder_has_a_name_of_its_own() -> None:
    assert len({str(each) for each in tune.LADDERS}) == len(tune.LADDERS)
