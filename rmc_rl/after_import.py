"""Something to be done once another library has been imported, without importing it: that might take seconds."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def after_import(module: str, action: Callable[[], object]) -> None:
    """Call `action` as soon as `module` has been imported: now, if it has been, else at the end of its import."""
    if module in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Watch(module, action))


class _Watch(MetaPathFinder):
    """Finds one module where it is found anyway, and has its loader call the action when the module is there."""

    def __init__(self, module: str, action: Callable[[], object]) -> None:
        self.module, self.action = module, action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        others = (finder.find_spec for finder in list(sys.meta_path) if finder is not self)
        spec = next((spec for find in others if (spec := find(fullname, path, target)) is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_act(module: ModuleType) -> None:
                load(module)
                sys.meta_path.remove(self)
                self.action()

            spec.loader.exec_module = load_and_act  # type: ignore[method-assign]
        return spec
