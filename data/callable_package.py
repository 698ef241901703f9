"""Packages that can be called: `clipcap.train` is a package and, under the same name, a function.

Python makes a submodule an attribute of its parent, so a function of the same name would disappear with the first
import below the package. A package that can be called keeps both.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def make_callable(package: str, function: str) -> None:
    """Let calls of a package go to a function in one of its modules, which is imported at the first call.

    Args:
        package: its full name, as `__name__` has it.
        function: `module:name` below the package.
    """
    module, name = function.split(":")

    class CallablePackage(ModuleType):
        def __call__(self, *arguments: Any, **keywords: Any) -> Any:
            return getattr(import_module(f"{package}.{module}"), name)(*arguments, **keywords)

    sys.modules[package].__class__ = CallablePackage
