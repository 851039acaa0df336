"""What the launches of random calls are compared with; the measuring itself wants a GPU."""

import random
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import pytest
import torch

import moe_cute
from benchmarks import producers, regret
from benchmarks.measure import Sample
from benchmarks.operands import Operands
from benchmarks.shapes import Case
from benchmarks.tune import Launch
from tests.variants import manifest

CASE = Case("bfloat16", 3, 1024, 2, epilogue="weighted_shared")


@pytest.fixture
def an_h100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=132))


def test_a_seed_draws_the_same_calls() -> None:
    def drawn(seed: int) -> list[Case]:
        rng = random.Random(seed)
        return [regret.draw(rng) for _ in range(300)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert all(1 <= case.tokens <= regret.MOST_TOKENS and case.bytes_moved <= regret.MOST_BYTES for case in drawn(1))
    assert {case.topk for case in drawn(1)} == set(regret.TOPKS)
    assert {case.epilogue for case in drawn(1)} == {"plain", "weighted_shared", "unpermute_weighted_shared"}


def test_the_chosen_launch_is_compared_with_the_best(monkeypatch: pytest.MonkeyPatch, an_h100: None) -> None:
    chosen, best = Launch(8, 512, 0), Launch(4, 128, 12)  # blocks that no ladder of a fused kernel may name

    def measure(
        calls: Mapping[Launch, Callable[[Operands], object]], operands: Sequence[Operands], *_: object
    ) -> dict[Launch, Sample]:
        calls[chosen](operands[0])  # runs, and is right
        expected = (operands[0].input.float() * operands[0].topk_weights[:, :, None]).sum(1) + operands[0].shared_output
        torch.testing.assert_close(operands[0].output.float(), expected, atol=0.1, rtol=0.02)
        return {launch: Sample.of([3.0 if launch == best else 6.0] * 2) for launch in calls}

    monkeypatch.setattr(producers, "measure_cold", measure)
    monkeypatch.setattr(regret, "chosen_launch", lambda operands, behind: chosen)
    found = regret.regret_of(CASE, torch.device("cpu"), manifest()["threads"])
    assert found == regret.Regret(CASE, chosen, 6.0, best, 3.0)
    assert found.ratio == 2.0
    assert regret.Regret(CASE, chosen, -0.01, best, -0.02).ratio == 1.0
    table = regret.table_of([found, regret.Regret(CASE, best, 3.0, best, 3.0)])
    assert table.title == "2 calls: 1.415 times the best launch in the geometric mean, 1 of them beyond 1.1 times"
    assert table.row_count == 2


@pytest.mark.parametrize(
    ("behind", "asked", "producer"),
    [
        (regret.Behind.itself, "trigger", None),
        (regret.Behind.trigger, "trigger", producers.produce_and_trigger),
        (regret.Behind.ordinary, "ordinary", producers.produce),
    ],
)
def test_each_kernel_before_is_measured_and_asked_about(
    monkeypatch: pytest.MonkeyPatch, an_h100: None, behind: regret.Behind, asked: str, producer: object
) -> None:
    seen: list[object] = []

    def samples(calls: Mapping[Launch, object]) -> dict[Launch, Sample]:
        return {launch: Sample.of([1.0, 1.0]) for launch in calls}

    def cold(calls: Mapping[Launch, object], *_: object) -> dict[Launch, Sample]:
        seen.append(None)
        return samples(calls)

    def chain(calls: Mapping[Launch, object], operands: object, produce: object, *_: object) -> dict[Launch, Sample]:
        seen.append(produce)
        return samples(calls)

    def explain(*_: object, **keywords: object) -> moe_cute.Explanation:
        seen.append(keywords["behind"])
        return moe_cute.Explanation("sum_reduce_cuda_bf16_hany_kany_v4_weighted", 128, 24, False, ())

    monkeypatch.setattr(producers, "measure_cold", cold)
    monkeypatch.setattr(producers, "measure_chain", chain)
    monkeypatch.setattr(moe_cute, "explain", explain)
    found = regret.regret_of(CASE, torch.device("cpu"), manifest()["threads"], behind)
    assert found.chosen == Launch(4, 128, 24)
    assert seen == [asked, producer]


@pytest.mark.gpu
@pytest.mark.parametrize("behind", regret.Behind)
def test_a_call_on_a_gpu(behind: regret.Behind) -> None:
    if behind is regret.Behind.trigger:
        pytest.importorskip("triton")
    found = regret.regret_of(CASE, torch.device("cuda"), manifest()["threads"], behind)
    assert 1.0 <= found.ratio < 100
    assert len(list(regret.regrets(0, 1, torch.device("cuda"), manifest()["threads"]))) == 1
