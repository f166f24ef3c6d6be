"""What setup.cfg cannot say: the attention kernel, which is built where it can be and left out elsewhere."""

import platform
import sys

from setuptools import Extension, setup

kernel = Extension(
    "medsam_adapter.native._attention",
    sources=["src/medsam_adapter/native/attention.c"],
    depends=[f"src/medsam_adapter/native/{name}.h" for name in ("vectors", "attention_kernel", "backward_kernel")],
    extra_compile_args=["-std=gnu11", "-O3", "-fopenmp"],
    extra_link_args=["-fopenmp"],
    libraries=["m"],
    optional=True,  # without a compiler, or with one that is too old, the package is installed all the same
)
has_kernel = sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
setup(ext_modules=[kernel] if has_kernel else [])
