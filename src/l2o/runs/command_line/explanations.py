"""What is wrong with a command line that Hydra refuses, in one line and with the remedy.

Hydra's own messages recommend `+` for every key that it does not know, and show the grammar's inside. These do not.
"""

import re
import shlex
from types import TracebackType
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from l2o.runs.command_line.arguments import taken_beside
from l2o.runs.command_line.nearest import certain, did_you_mean, nearest
from l2o.runs.command_line.read_keys import compose, compose_base, keys_of, program_of


class Composition(NamedTuple):
    """What Hydra was composing when it failed: with which loader, from which primary config, with which overrides."""

    loader: Any
    config_name: str | None
    overrides: list[str]


def explain(error: BaseException) -> str | None:
    """One line on an error that Hydra raised over a command line; None for any other error."""
    if isinstance(error, OverrideParseException):
        return not_in_the_grammar(error.override)
    failed = _failed_composition(error.__traceback__)
    if failed and (said := _no_key_or_no_option(failed)):
        return said
    if not isinstance(error, ConfigCompositionException):
        return None
    several = re.match(r"\s*(?:Ambiguous value for argument|Sweep parameters) '(.*)'", str(error))
    if several:
        return _several_values(several[1])
    if failed and isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_option(failed, str(error.missing_cfg_file))
    unknown = re.match(r"Could not (?:override|delete from config\.|delete) '([^']+)'", str(error))
    if failed and unknown:
        return _unknown_key(failed, unknown[1])
    there = re.match(r"Could not append to config\. An item is already at '([^']+)'", str(error))
    if failed and there:
        cfg = _without(failed, there[1])
        told = _read_elsewhere(failed, cfg, there[1]) if cfg is not None else None
        return told or f"{there[1]} is set already: leave out the plus"
    return None


def not_in_the_grammar(override: str) -> str:
    """What is wrong with a word that is no override in Hydra's grammar. Most often its value wants quotes."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"'{override}' is no setting: write KEY=VALUE, or GROUP=OPTION"
    if not _parses(f"{key}=1"):
        return f"'{key}' in '{override}' is no key: keys are words joined by dots, as learner.horizon"
    quoted = f"{key}={QuotedString(value, Quote.double).with_quotes()}"
    if not _parses(quoted):
        return f"the value of '{override}' cannot be read"
    return f"the value of {key} has characters that need quotes: put the value into quotes: {shlex.quote(quoted)}"


def _several_values(override: str) -> str:
    """What to say of values with commas between them, or of another sweep, where a single run was asked for."""
    key, _, value = override.partition("=")
    remedies = f"-m (--multirun) makes a run of each, '{key}=[{value}]' is a list"
    if re.match(r"\w+\(", value):  # range(…), choice(…)
        return f"{key} has several values: -m (--multirun) makes a run of each"
    quoted = shlex.quote(f"{key}={QuotedString(value, Quote.double).with_quotes()}")
    return f"{key} has several values: {remedies}, and {quoted} is one value with commas"


def _parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _failed_composition(traceback: TracebackType | None) -> Composition | None:
    """The composition in which an error arose; Hydra keeps it nowhere but on the stack."""
    while traceback:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        if frame.f_code.co_name == "load_configuration":
            known = frame.f_locals
            return Composition(known["self"], known["config_name"], known["overrides"])
    return None


def _no_key_or_no_option(failed: Composition) -> str | None:
    """What to say of a word without a key, or with a number or a table where a group's option belongs."""
    for word in failed.overrides:
        key, _, option = word.lstrip("+~").partition("=")
        group = key.partition("@")[0]
        if not group:
            return f"'{word}' names no key: write KEY=VALUE, or GROUP=OPTION"
        given = OverridesParser.create().parse_override(word)
        chooses = "." not in group and option and not given.is_sweep_override()
        if chooses and failed.loader.get_group_options(group) and not isinstance(given.value(), str | list | None):
            return _missing_option(failed, f"{group}/{option}")
    return None


def _missing_option(failed: Composition, path: str) -> str | None:
    group, _, option = path.rpartition("/")
    options = failed.loader.get_group_options(group) if group else []
    if not options:
        return None
    found = nearest(option, options)
    hint = f"did you mean {group}={found}?" if found else f"the options are {', '.join(options)}"
    return f"there is no {group}={option}: {hint}"


def _unknown_key(failed: Composition, key: str) -> str:
    cfg, program = _without(failed, key), f"{failed.config_name or 'train'}.py"
    known: list[str] = []
    if cfg is not None:
        program = f"{program_of(cfg)}.py"
        known = [*keys_of(cfg), *(str(group) for group in cfg.hydra.runtime.choices)]
    given = next((word for word in failed.overrides if _key(word) == key), f"{key}=VALUE")
    if cfg is not None and not given.startswith("~"):
        if told := _read_elsewhere(failed, cfg, key):
            return told
        found = nearest(key, known)
        if not (found and certain(key, found)):  # else there is no need for the modules that `_target_`s name
            taken = taken_beside(cfg, key)
            if key in taken:
                remedy = f"add it with a plus, {shlex.quote('+' + given)}"
                value, now = OverridesParser.create().parse_override(given).value(), OmegaConf.select(cfg, key)
                if isinstance(value, dict) and isinstance(now, DictConfig):
                    missing = ", ".join(_not_in(now, value)) or "such entry"
                    return f"{key} has no {missing} so far: {remedy}"
                return f"{key} is not set so far: {remedy}"
            known += [f"+{name}" for name in taken if name not in known]
    hint = did_you_mean(key, known) or f": 'python {program} --help' lists its keys"
    return f"{program} knows no key {key}{hint}"


def _not_in(now: DictConfig, given: dict[Any, Any], before: str = "") -> list[str]:
    """The entries of a table on the command line that the configuration does not have, however deep they lie."""
    missing: list[str] = []
    for entry, value in given.items():
        if entry not in set(now):  # `in now` would leave out what has no value yet
            missing.append(f"{before}{entry}")
        elif isinstance(value, dict) and isinstance(inner := now._get_node(entry), DictConfig):
            missing += _not_in(inner, value, f"{before}{entry}.")
    return missing


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _without(failed: Composition, key: str) -> DictConfig | None:
    """The configuration without the overrides that no configuration knows; None where there is none even so."""
    overrides = [word for word in failed.overrides if _key(word) != key]
    try:
        return compose(failed.loader, failed.config_name, overrides)
    except ConfigCompositionException as error:
        unknown = re.match(r"Could not \w[^']*'([^']+)'", str(error))
        if not unknown or all(_key(word) != unknown[1] for word in overrides):
            return None
        return _without(failed._replace(overrides=overrides), unknown[1])


def _read_elsewhere(failed: Composition, cfg: DictConfig, key: str) -> str | None:
    """What to say of a key that only a group that is left out has, or that the other program reads."""
    program = program_of(cfg)
    other = "evaluate" if program == "train" else "train"
    if key in keys_of(compose_base(failed.loader, program)):
        if key in keys_of(cfg):
            return None
        return f"{key} has no effect: '{key.split('.')[0]}' or a part of it is left out or replaced"
    base = compose_base(failed.loader, other)
    if key in keys_of(base) or key in base.hydra.runtime.choices:
        return f"{program}.py does not read {key}: {other}.py does"
    return None
