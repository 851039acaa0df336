"""Any strides and any storage offset give the bits of the contiguous call."""

import pytest
import torch

from tests.calls import Call, random_values
from tests.memory import INPUT_LAYOUTS, OUTPUT_LAYOUTS, values_for
from tests.reference import FLOATS

SHAPES = [
    (3, 4, 2048),  # a specialised hidden size, which wants packed rows
    (5, 3, 96),  # whole vectors of every width
    (4, 8, 41),  # none
    (2, 2, 1),
]


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_input(device: torch.device, dtype: torch.dtype, layout: str, rng: torch.Generator) -> None:
    for shape in SHAPES:
        values = values_for(layout, random_values(shape, dtype, rng))
        Call(values, tokens=shape[0]).check(device, input_layout=layout)


@pytest.mark.parametrize("layout", OUTPUT_LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_output(device: torch.device, dtype: torch.dtype, layout: str, rng: torch.Generator) -> None:
    for shape in SHAPES:
        Call(random_values(shape, dtype, rng), tokens=shape[0]).check(device, output_layout=layout)


@pytest.mark.parametrize("output_layout", ["column_slice_odd", "transposed"])
@pytest.mark.parametrize("input_layout", ["sliced_rows_odd", "hidden_first", "odd_strides"])
def test_both(device: torch.device, input_layout: str, output_layout: str, rng: torch.Generator) -> None:
    for shape in SHAPES:
        call = Call(random_values(shape, torch.bfloat16, rng), tokens=shape[0])
        call.check(device, input_layout=input_layout, output_layout=output_layout)
