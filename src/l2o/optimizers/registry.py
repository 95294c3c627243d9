"""Which classes a file may name: every update rule and preprocessing whose definition has been run.

A file names a class by its bare name. A class that is defined again in its module, as when a cell of a notebook is run
twice, takes the place of its former self.
"""

import inspect

_DEFINED: dict[str, dict[tuple[str, str], type]] = {}
"""name: {(module, qualified name): the last class that was defined there}."""


def register(cls: type) -> None:
    """Enter a class under its name; called by `__init_subclass__` of what can be exported."""
    _DEFINED.setdefault(cls.__name__, {})[cls.__module__, cls.__qualname__] = cls


def names(*kinds: type) -> list[str]:
    """Return the names of all classes of these kinds that are not abstract, in alphabetical order."""
    return sorted(name for name in _DEFINED if _candidates(name, kinds))


def find(name: object, *kinds: type) -> type:
    """Return the class of this name, which is a subclass of one of `kinds`.

    Raises ValueError where no such class has been defined, and where several definitions share the name: then nothing
    says which of them a file means.
    """
    found = _candidates(name, kinds) if isinstance(name, str) else {}
    wanted = " or ".join(kind.__name__ for kind in kinds)
    if not found:
        raise ValueError(
            f"unknown {wanted} '{name}': known are {', '.join(names(*kinds))}; import the module that defines it first "
            "(train.py and evaluate.py: 'imports=[MODULE]'; python -m l2o diagnose: --imports MODULE)"
        )
    if len(found) > 1:
        places = " and ".join(f"{module}.{qualified}" for module, qualified in sorted(found))
        raise ValueError(f"'{name}' means several classes, {places}: give one of them another name")
    return next(iter(found.values()))


def _candidates(name: str, kinds: tuple[type, ...]) -> dict[tuple[str, str], type]:
    defined = _DEFINED.get(name, {}).items()
    return {place: cls for place, cls in defined if issubclass(cls, kinds) and not inspect.isabstract(cls)}
