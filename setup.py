"""Compiles csrc/ and generated/ into moe_cute/_C.abi3.so: one binary for torch from 2.10 and Python from 3.10 on."""

import sys
from pathlib import Path

from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).parent))  # a PEP 517 frontend does not put it there

from build_support.build_ext import NinjaBuildExt

setup(
    ext_modules=[Extension("moe_cute._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": NinjaBuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
