"""`python -m moe_cute`: exit code 0 is yes, 1 is no (no backend works, no variant runs the call), 2 is wrong usage.

`doctor` also runs where torch or the extension does not load: neither is taken for granted here.
"""

import json
from enum import Enum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import moe_cute
from moe_cute import _doctor
from moe_cute._limits import (
    FIRST_ARCHITECTURE,
    H100_L2_MIB,
    H100_MULTIPROCESSORS,
    LAST_ARCHITECTURE,
    MOST_ELEMENTS,
    MOST_L2_MIB,
    MOST_MULTIPROCESSORS,
)

OUTPUT_WIDTH = 200  # of a file or a pipe, which have none of their own

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="What this build of moe_cute can do, and what it would do with a call.",
)
console = Console(width=None if Console().is_terminal else OUTPUT_WIDTH, markup=False, emoji=False, highlight=False)


class Backend(str, Enum):  # StrEnum needs Python 3.11
    cuda = "cuda"
    cpu = "cpu"


class Behind(str, Enum):
    trigger = "trigger"
    ordinary = "ordinary"


class DType(str, Enum):
    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"
    float64 = "float64"


def _size(text: str) -> int:
    if not text.isdecimal() or len(text) > len(str(MOST_ELEMENTS)) or int(text) > MOST_ELEMENTS:
        raise typer.BadParameter(f"was {text!r}; allowed: a whole number from 0 to {MOST_ELEMENTS}")
    return int(text)


AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell what was built, what works here, and what is missing."""
    examination = _doctor.examine()
    if as_json:
        typer.echo(json.dumps(examination.as_dict(), indent=2))
    else:
        _print_examination(examination)
    raise typer.Exit(0 if any(backend.works for backend in examination.backends) else 1)


@app.command("list")
def list_variants(
    backend: Annotated[Backend | None, typer.Option(help="Only its variants.")] = None,
    dtype: Annotated[DType | None, typer.Option(help="Only those that read it.")] = None,
    epilogue: Annotated[str | None, typer.Option(help="Only those that fuse this much: plain, weighted, ...")] = None,
    as_json: AsJson = False,
) -> None:
    """List the variants of the selection table, in its order."""
    _refuse_unless_loaded()
    table_rows = moe_cute.variants()
    epilogues = list(dict.fromkeys(row["epilogue"] for row in table_rows))
    if epilogue not in (None, *epilogues):
        raise typer.BadParameter(f"{epilogue!r} is not one of {', '.join(epilogues)}", param_hint="--epilogue")
    wanted = {"backend": backend, "dtype": dtype, "epilogue": epilogue}
    rows = [row for row in table_rows if all(value in (None, row[key]) for key, value in wanted.items())]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("variant", overflow="fold")
    for heading in ("dtype", "hidden", "topk", "vector width", "instruction set", "epilogue", "built"):
        table.add_column(heading)
    for row in rows:
        sizes = (str(row[key] or "any") for key in ("hidden", "topk"))
        instruction_set = "" if row["backend"] == "cuda" else row["instruction_set"]
        built = "yes" if row["built"] else "no"
        table.add_row(
            row["name"], row["dtype"], *sizes, str(row["vector_width"]), instruction_set, row["epilogue"], built
        )
    console.print(table)
    console.print(f"{len(rows)} variants, {sum(row['built'] for row in rows)} of them built")


@app.command()
def explain(
    tokens: Annotated[int, typer.Argument(metavar="TOKENS", parser=_size)],
    topk: Annotated[int, typer.Argument(metavar="TOPK", parser=_size)],
    hidden: Annotated[int, typer.Argument(metavar="HIDDEN", parser=_size)],
    dtype: Annotated[DType, typer.Option(help="Of the input.")] = DType.bfloat16,
    device: Annotated[Backend, typer.Option(help="Where the input is.")] = Backend.cpu,
    architecture: Annotated[
        int | None,
        typer.Option(
            min=FIRST_ARCHITECTURE,
            max=LAST_ARCHITECTURE,
            help="Of the GPU, 90 for sm_90: needed where there is no GPU to ask.",
        ),
    ] = None,
    multiprocessors: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_MULTIPROCESSORS,
            help=f"Of that GPU; with --architecture. Default: {H100_MULTIPROCESSORS}",
        ),
    ] = None,
    l2_mib: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_L2_MIB, help=f"MiB of its L2 cache; likewise. Default: {H100_L2_MIB}"),
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="With topk_weights.")] = False,
    ids: Annotated[bool, typer.Option("--ids", help="With topk_ids.")] = False,
    permuted: Annotated[bool, typer.Option("--permuted", help="With inv_permuted_idx.")] = False,
    shared: Annotated[bool, typer.Option("--shared", help="With shared_output.")] = False,
    num_tokens: Annotated[bool, typer.Option("--num-tokens", help="With num_tokens.")] = False,
    out_dtype: Annotated[DType | None, typer.Option(help="Of the output, if not the input's.")] = None,
    pdl: Annotated[bool, typer.Option(help="With programmatic dependent launch, where the GPU has it.")] = True,
    behind: Annotated[
        Behind, typer.Option(help="A kernel that lets the next one start early, or one in a CUDA graph that does not.")
    ] = Behind.trigger,
    as_json: AsJson = False,
) -> None:
    """Tell which variant a call takes, and why not a better one.

    Its tensors are taken to be contiguous and aligned.
    """
    if architecture is not None and device is Backend.cpu:
        raise typer.BadParameter("goes with --device cuda", param_hint="--architecture")
    of_the_gpu = {"--multiprocessors": multiprocessors, "--l2-mib": l2_mib}
    for option, value in of_the_gpu.items():
        if value is not None and architecture is None:
            raise typer.BadParameter("goes with --architecture", param_hint=option)
    _refuse_unless_loaded()
    import torch

    try:
        explanation = moe_cute.explain(
            (tokens * topk, hidden) if permuted else (tokens, topk, hidden),
            dtype=getattr(torch, dtype.value),
            device=device.value,
            topk_weights=weights,
            topk_ids=ids,
            inv_permuted_idx=(tokens, topk) if permuted else None,
            shared_output=shared,
            num_tokens=num_tokens,
            out_dtype=getattr(torch, out_dtype.value) if out_dtype else None,
            architecture=architecture or 0,
            multiprocessors=multiprocessors or H100_MULTIPROCESSORS,
            l2_mib=l2_mib or H100_L2_MIB,
            pdl=pdl,
            behind=behind.value,
        )
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    except RuntimeError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from error
    typer.echo(json.dumps(explanation.as_dict(), indent=2) if as_json else str(explanation))
    if explanation.variant is None:
        raise typer.Exit(1)
    compiled = moe_cute._extension._C.build_info()["cuda_architectures"]
    if architecture is not None and _doctor.code_for(architecture, compiled) is None:
        typer.echo(f"but this build has no code for sm_{architecture}: it is for {compiled}", err=True)
        raise typer.Exit(1)


def _refuse_unless_loaded() -> None:
    """Exit code 1, and the reason, where the package has no extension to ask."""
    failure = _doctor.why_not_loaded()
    if failure is not None:
        typer.echo(f"moe_cute does not work: {failure.what}\nto mend it: {failure.mend}", err=True)
        raise typer.Exit(1)


def _print_examination(examination: _doctor.Examination) -> None:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, fact in examination.facts():
        facts.add_row(name, fact)
    for backend in examination.backends:
        facts.add_row(f"{backend.name} backend", "works" if backend.works else f"does not work: {backend.what}")
        if backend.mend:
            facts.add_row("", f"to mend it: {backend.mend}")
    console.print(facts)
