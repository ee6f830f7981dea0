"""Deliberate bugs: the simulation must find each, or it proves nothing (`make sim-mutants`).

A mutant is a few texts of a module's source that are replaced while the module is imported, in a process of its own.
Those of `sim.world` break a rule of the store, whose real form is SQL; the SQL itself is held against the simulated
store by `test_sim_store_twins.py`.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import attrs

TESTS = Path(__file__).parents[1]


@attrs.frozen
class Mutant:
    """`edits`: pairs of a text that stands exactly once in the module's source, and what stands there instead.

    `needs`: only plans with one of these faults can show it; others are passed over, and counted.
    """

    module: str
    edits: Sequence[tuple[str, str]]
    breaks: str
    needs: Sequence[str] = ()

    @property
    def path(self) -> Path:
        """Where the module's source is."""
        root = TESTS if self.module.startswith("sim.") else TESTS.parent
        return root / Path(*self.module.split(".")).with_suffix(".py")

    def source(self) -> str:
        """The mutated source. Raises ValueError when an edit no longer fits."""
        text = self.path.read_text()
        for old, new in self.edits:
            if text.count(old) != 1:
                raise ValueError(f"{self.module}: {text.count(old)} times in its source: {old!r}")
            text = text.replace(old, new)
        return text


def _read() -> Mapping[str, Mutant]:
    listed = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["mutant"]
    return {
        one["name"]: Mutant(
            one["module"], [(edit["old"], edit["new"]) for edit in one["edit"]], one["breaks"], one.get("needs", ())
        )
        for one in listed
    }


MUTANTS = _read()
"""Every mutant by what is wrong in it, with the promise that it breaks."""


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def get_source(self, fullname: str) -> str:
        """The mutated source."""
        return self._mutant.source()

    def is_package(self, fullname: str) -> bool:
        """Mutants are plain modules."""
        return False


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Only the mutated module is found here."""
        if fullname != self._mutant.module:
            return None
        return importlib.util.spec_from_loader(fullname, _Loader(self._mutant), origin=str(self._mutant.path))


def infect(name: str) -> None:
    """From now on this process imports the mutated module; it must not have been imported yet."""
    mutant = MUTANTS[name]
    if mutant.module in sys.modules:
        raise ValueError(f"{mutant.module} was imported already")
    mutant.source()
    sys.meta_path.insert(0, _Finder(mutant))
