"""The one piece that is compiled; everything else stands in pyproject.toml, whose table for this is still experimental."""

import os

from setuptools import Extension, setup

STRIDED = Extension(
    "formats.core._strided",
    ["formats/core/_strided.c"],
    extra_compile_args=[] if os.name == "nt" else ["-O3"],  # unrolls its loops
    optional=True,  # where there is no compiler NumPy does its work
    py_limited_api=True,
)

setup(ext_modules=[STRIDED], options={"bdist_wheel": {"py_limited_api": "cp311"}})  # one wheel for every Python from 3.11 on
