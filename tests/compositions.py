"""What Hydra does anew for each program, done once where tests start many: it takes longer than a small run."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult

CONF = Path(__file__).parents[1] / "conf"
UNCHANGED = {f"file://{CONF}", "pkg://hydra.conf"}


def parse_configs_once(put: Callable[[object, str, Any], None] = setattr) -> None:
    """Keep what is parsed of the configs that no test changes: the repository's own and Hydra's.

    `put` takes the place of Hydra's method, for good unless it is told to give it back.
    """
    load, parsed = ConfigRepository.load_config, dict[tuple[str, str], ConfigResult | None]()

    def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        place = f"{source.scheme()}://{source.path}" if source else ""
        if place not in UNCHANGED:
            return load(self, config_path)
        if (place, config_path) not in parsed:
            parsed[place, config_path] = load(self, config_path)
        return copy.deepcopy(parsed[place, config_path])

    put(ConfigRepository, "load_config", load_config)


def compose_once(put: Callable[[object, str, Any], None]) -> None:
    """Spare the composition from which Hydra only reads `hydra.mode`, where nothing can have set that.

    No option of the repository's configs sets it but those of `figure`, as test_programs asserts.
    """
    get_mode = Hydra.get_mode

    def mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        paths = {entry.path for entry in self.config_loader.get_search_path().get_path()}
        own = paths <= {str(CONF), "pkg://hydra.conf", "structured://"}
        told = any(word.lstrip("+~").startswith(("figure", "hydra.mode", "hydra.searchpath")) for word in overrides)
        if told or not own or config_name not in ("train", "evaluate"):
            return get_mode(self, config_name, overrides)
        return None

    put(Hydra, "get_mode", mode)


def compose_all() -> None:
    """Parse the configs of both programs now, for processes to come."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for program in ("train", "evaluate"):
            compose(program)
