"""The build_ext command: a plan, a build.ninja, ninja, and the library where setuptools wants it."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

from build_support import toolchain
from build_support.errors import BuildError
from build_support.ninja_file import ninja_file
from build_support.plan import BuildPlan, make_plan

# One folder for builds in place and for wheels, whatever the Python: the objects are the same.
BUILD_FOLDER = Path("build", "extension")


class NinjaBuildExt(build_ext):
    def build_extension(self, ext: Extension) -> None:
        try:
            library = self._build()
        except BuildError as error:
            raise SystemExit(f"moe_cute: {error}") from None
        target = Path(self.get_ext_fullpath(ext.name))
        self.mkpath(str(target.parent))
        self.copy_file(str(library), str(target))

    def _build(self) -> Path:
        plan = make_plan(Path())
        script, library = write_build_script(plan)
        sys.stdout.flush()
        command = [
            str(toolchain.ninja_program()),
            "-f",
            str(script),
            f"-j{jobs()}",
            *(["-v"] if self.verbose > 1 else []),
        ]
        if subprocess.run(command).returncode:
            raise BuildError("the build failed; the compiler's message stands above")
        print(f"moe_cute: built the {plan.summary}")
        return library


def write_build_script(plan: BuildPlan) -> tuple[Path, Path]:
    """The build.ninja, and the library that it makes; both relative to the repository, the working directory."""
    script, library = BUILD_FOLDER / "build.ninja", BUILD_FOLDER / "_C.abi3.so"
    BUILD_FOLDER.mkdir(parents=True, exist_ok=True)
    script.write_text(ninja_file(plan, BUILD_FOLDER, library))
    return script, library


def jobs() -> int:
    """MAX_JOBS, as in all of torch's builds; else one per core."""
    text = os.environ.get("MAX_JOBS", "").strip()
    if text and not (text.isdecimal() and int(text)):
        raise BuildError(f"MAX_JOBS is {text!r}; a whole number from 1 is allowed")
    return int(text) if text else len(os.sched_getaffinity(0))
