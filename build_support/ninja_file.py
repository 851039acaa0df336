"""A build plan as build.ninja: ninja runs it in parallel, and again only what a change has touched."""

import io
import shlex
from pathlib import Path

from build_support.errors import BuildError
from build_support.plan import BuildPlan

# Both compilers list the headers that they read.
COMPILE = "$flags -MD -MF $out.d -c $in -o $out"


def object_of(source: Path, folder: Path) -> Path:
    return folder / f"{source.name}.o"


def ninja_file(plan: BuildPlan, folder: Path, library: Path) -> str:
    """The text of a build.ninja that makes `library`, and its objects in `folder`."""
    try:
        from ninja.ninja_syntax import Writer, escape_path
    except ImportError as error:
        raise BuildError("the Python package ninja is missing: pip install ninja") from error

    text = io.StringIO()
    ninja = Writer(text, width=120)  # type: ignore[arg-type]  # whose stubs take a file for a str
    ninja.variable("builddir", escape_path(str(folder)))
    ninja.rule("cxx", f"{_words(plan.cxx)} {COMPILE}", "c++ $in", depfile="$out.d", deps="gcc")
    if plan.nvcc:
        ninja.rule("nvcc", f"{_words(plan.nvcc)} {COMPILE}", "nvcc $in", depfile="$out.d", deps="gcc")
    ninja.rule("link", f"{_words(plan.cxx[:1])} $in $flags -o $out", "link $out")

    objects = []
    for compilation in plan.compilations:
        target = str(object_of(compilation.source, folder))
        objects.append(target)
        ninja.build(
            [target], compilation.rule, [str(compilation.source)], variables={"flags": _words(compilation.flags)}
        )
    ninja.build([str(library)], "link", objects, variables={"flags": _words(plan.link_flags)})
    ninja.default([str(library)])
    return text.getvalue()


def _words(arguments: tuple[str, ...]) -> str:
    """Quoted for the shell, then for ninja."""
    return shlex.join(arguments).replace("$", "$$")
