"""`python -m generator`: exit code 0 is done or up to date, 1 is different or refused, 2 is a bad spec or usage."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from generator import render, rules, spec, sync, tuning
from generator.problems import BadFile, shown
from generator.schema import schema
from generator.strict import StrictModel
from generator.sync import Change, State
from generator.variant import Variant

ROOT = Path(__file__).resolve().parent.parent
SPEC = ROOT / "specs" / "sum_reduce.yaml"
OUT = ROOT / "generated"
SCHEMAS: dict[Path, type[StrictModel]] = {
    SPEC.parent / "schema.json": spec.Spec,
    SPEC.parent / "tuning" / "schema.json": tuning.TuningFile,
}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
# Plain text: in "spec.yaml:100:5" rich would see an emoji.
console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
errors = Console(markup=False, emoji=False, highlight=False, soft_wrap=True, stderr=True)


@app.command()
def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; show what differs, and exit 1 if it does.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="Write nothing; print every variant.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: as JSON.")] = False,
    spec_path: Annotated[
        Path,
        typer.Option(
            "--spec",
            metavar="FILE",
            show_default="specs/sum_reduce.yaml",
            help="Build from another spec, and the tuning/ beside it.",
        ),
    ] = SPEC,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", file_okay=False, show_default="generated/", help="Build elsewhere.")
    ] = OUT,
    force: Annotated[bool, typer.Option("--force", help="Overwrite generated files that were edited by hand.")] = False,
) -> None:
    """Generate a spec's kernels, the table they are selected from, and the manifest."""
    if as_json and not list_:
        raise typer.BadParameter("goes with --list", param_hint="--json")
    if check + list_ + force > 1:
        raise typer.BadParameter("one at a time", param_hint="--check, --list, --force")
    try:
        loaded = spec.load(spec_path)
        variants = rules.variants(loaded)
        launch_rules = tuning.launch_rules(spec_path.parent / "tuning", loaded, variants)
    except BadFile as error:
        errors.print(str(error))
        raise typer.Exit(2) from error
    if list_:
        _list(variants, as_json)
        return

    names = render.file_names(variants)
    progress = track(names, "Generating", console=errors, transient=True, disable=not errors.is_terminal)
    files = {out / name: render.render(name, loaded, variants, launch_rules) for name in progress}
    if (spec_path.resolve(), out.resolve()) == (SPEC, OUT):
        files |= {path: schema(model) for path, model in SCHEMAS.items()}
    with _named_os_errors():
        changes = sync.plan(files, out)
    refusals = list(sync.refusals(changes, force))
    if check:
        _check(changes, refusals, _command(spec_path, out, changes))
        return
    if refusals:
        errors.print("\n".join([*refusals, "Nothing was written."]))
        raise typer.Exit(1)
    with _named_os_errors():
        sync.apply(changes)
    _summarise(changes, variants)


@contextmanager
def _named_os_errors() -> Iterator[None]:
    """Exit code 2, and the file, where reading or writing one fails."""
    try:
        yield
    except OSError as error:
        errors.print(f"{error.filename}: {error.strerror}")
        raise typer.Exit(2) from error


def _list(variants: list[Variant], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([variant.row for variant in variants], indent=2))
        return
    width = max(len(variant.name) for variant in variants)
    for variant in variants:
        typer.echo(f"{variant.name:{width}}  {'; '.join(variant.constraints)}")


def _check(changes: list[Change], refusals: list[str], command: str) -> None:
    if all(change.state is State.UNCHANGED for change in changes):
        console.print(f"{len(changes)} files are what the generator writes.")
        return
    typer.echo(sync.diff(changes), nl=False)
    errors.print("\n".join([*refusals, f"Not what the generator writes. To mend it: {command}"]))
    raise typer.Exit(1)


def _command(spec_path: Path, out: Path, changes: list[Change]) -> str:
    words = ["python", "-m", "generator"]
    words += ["--spec", shown(spec_path)] if spec_path != SPEC else []
    words += ["--out", shown(out)] if out != OUT else []
    words += ["--force"] if any(change.state is State.HAND_EDITED for change in changes) else []
    return shlex.join(words)


def _done(change: Change) -> str:
    if change.state is State.HAND_EDITED:
        return "removed" if change.new is None else "overwritten"
    return str(change.state.value)


def _summarise(changes: list[Change], variants: list[Variant]) -> None:
    for change in changes:
        if change.state is not State.UNCHANGED:
            console.print(f"{_done(change):>14}  {shown(change.path)}")
    states = Counter(map(_done, changes))
    backends = Counter(variant.backend for variant in variants)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    console.print(f"{backends['cuda']} CUDA and {backends['cpu']} CPU variants; {len(changes)} files: {counts}.")
