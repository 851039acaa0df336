"""What the launches of random calls are compared with; the measuring itself wants a GPU."""

import random
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch

from benchmarks import regret
from benchmarks.measure import Sample
from benchmarks.operands import Operands
from benchmarks.shapes import Case
from benchmarks.tune import Launch
from tests.variants import manifest

CASE = Case("bfloat16", 3, 1024, 2, epilogue="weighted_shared")


def test_a_seed_draws_the_same_calls() -> None:
    def drawn(seed: int) -> list[Case]:
        rng = random.Random(seed)
        return [regret.draw(rng) for _ in range(300)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert all(1 <= case.tokens <= regret.MOST_TOKENS and case.bytes_moved <= regret.MOST_BYTES for case in drawn(1))
    assert {case.topk for case in drawn(1)} == set(regret.TOPKS)
    assert {case.epilogue for case in drawn(1)} == {"plain", "weighted_shared", "unpermute_weighted_shared"}


def test_the_chosen_launch_is_compared_with_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, best = Launch(8, 512, 0), Launch(4, 128, 12)  # blocks that no ladder of a fused kernel may name

    def measure(
        calls: Mapping[Launch, Callable[[Operands], object]], operands: Sequence[Operands], *_: object
    ) -> dict[Launch, Sample]:
        calls[chosen](operands[0])  # runs, and is right
        expected = (operands[0].input.float() * operands[0].topk_weights[:, :, None]).sum(1) + operands[0].shared_output
        torch.testing.assert_close(operands[0].output.float(), expected, atol=0.1, rtol=0.02)
        return {launch: Sample.of([3.0 if launch == best else 6.0] * 2) for launch in calls}

    monkeypatch.setattr(regret, "measure_cold", measure)
    monkeypatch.setattr(regret, "chosen_launch", lambda operands: chosen)
    found = regret.regret_of(CASE, torch.device("cpu"), manifest()["threads"])
    assert found == regret.Regret(CASE, chosen, 6.0, best, 3.0)
    assert found.ratio == 2.0
    table = regret.table_of([found, regret.Regret(CASE, best, 3.0, best, 3.0)])
    assert table.title == "2 calls: 1.414 times the best launch in the geometric mean, 1 of them beyond 1.1 times"
    assert table.row_count == 2


@pytest.mark.gpu
def test_a_call_on_a_gpu() -> None:
    found = regret.regret_of(CASE, torch.device("cuda"), manifest()["threads"])
    assert 1.0 <= found.ratio < 100
    assert len(list(regret.regrets(0, 1, torch.device("cuda"), manifest()["threads"]))) == 1
