"""Triton's interpreter, which runs kernels where there is no GPU, without what takes most of its time."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def quick_interpreter(monkeypatch) -> Iterator[None]:
    """Let one function of a kernel call another without patching Triton's language anew.

    The interpreter does so at every call, which takes milliseconds, although launching a kernel has done it already.
    Only the modules of Triton's own functions are left to be patched, once each.
    """
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    patched: set[str] = set()

    def call(self, *arguments, **options):
        module = self.fn.__module__
        if module.startswith("triton.") and module not in patched:
            patched.add(module)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*arguments, **options)

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)
    yield
