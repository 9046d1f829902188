"""A user's mistake, found where Hydra refuses a command line: the setting, its value and what is allowed.

What Hydra says of it is printed where nothing of this finds the mistake, and never read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ensemble_transfer.cli.arguments import folders, normalised, split
from ensemble_transfer.cli.configuration import plain
from ensemble_transfer.errors import RunError, SettingError

_EXTRAS = ("joblib", "slurm", "ray", "optuna")

_GROWS = {"evaluation.ood": "+task@{}=TASK", "backbone.options": "+{}=..."}
"""Groups that take settings of any name, and how one is added."""

_LIGHTNING = "; docs/lightning.md has what stands here for Lightning's settings"

_FIRST = ("dataset.", "recipe.full.")
"""Settings that are meant more often than others of the same name."""

_NAMED, _LIKE = 3, 0.7
"""Settings that a hint names at the most, and how much their names must be like the one that was written."""


def mistake(error: Exception, conf: Path, arguments: Sequence[str]) -> Exception:
    """Return the error to tell, by the folder of the configuration and the command line."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, SettingError | RunError):
        cause = cause.__cause__
    if isinstance(cause, SettingError | RunError):
        return cause
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        if isinstance(error, FileNotFoundError) and error.filename is None:
            return RunError(f"the working directory cannot be used: {error.strerror}")
        where = "hydra.run.dir and hydra.sweep.dir say where runs are written"
        return RunError(f"{error.filename}: cannot be written ({error.strerror}); {where}")
    return _found(conf, arguments) or _without_plugin(error) or _in_their_words(cause)


def choose_strategy(conf: Sequence[Path]) -> RunError:
    """Return the strategies with a line each, the first line of their files; the first folder of several counts."""
    found = {path.stem: path for folder in reversed(conf) for path in (folder / "strategy").glob("[!_]*.yaml")}
    lines = ["choose a strategy:"]
    for name, path in sorted(found.items()):
        about = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"  strategy={name:<13} {about}")
    return RunError("\n".join(lines))


def unknown(cfg: Mapping[str, Any], setting: str, value: object) -> SettingError:
    """Return the error for a setting that a configuration does not have, with those that may be meant."""
    parent, _, name = setting.rpartition(".")
    if parent in _GROWS:
        return SettingError(setting, value, f"is not there yet; add it with {_GROWS[parent].format(setting)}")
    paths = list(dict.fromkeys(_paths(cfg)))
    names = list(dict.fromkeys(path.rpartition(".")[2] for path in paths))
    like = name if name in names else next(iter(get_close_matches(name, names, 1, _LIKE)), None)
    found = [path for path in paths if path.rpartition(".")[2] == like]
    beside_it = [path for path in found if path.rpartition(".")[0] == parent]
    meant = beside_it or sorted(found, key=lambda path: (not path.startswith(_FIRST), len(path)))
    node: Any = cfg
    for part in parent.split(".") if parent else ():
        node = node.get(part) if isinstance(node, Mapping) else None
    there = ", ".join(str(key) for key in node if key != "hydra") if isinstance(node, Mapping) else ""
    hint = f"; {parent or 'the configuration'} has {there}" if there else ""
    hint += _LIGHTNING if parent in ("", "trainer") else ""
    hint = f"; did you mean {' or '.join(meant[:_NAMED])}?" if meant else hint
    hint += "; for a folder of your own add dataset=target" if setting == "dataset.target.path" else ""
    return SettingError(setting, value, f"is not a setting{hint}")


@dataclass
class _Line:
    """A command line, as far as Hydra takes it.

    Attributes:
        loader: Hydra's loader of configurations.
        extra: Overrides that name further folders of configurations.
        multirun: Whether several values make a sweep.
    """

    loader: ConfigLoader
    extra: list[str]
    multirun: bool

    def error(self, overrides: Sequence[Override], conf: Sequence[Path]) -> Exception | None:
        """Return the first mistake of overrides, choices of groups first; None if there is none."""
        groups = [o for o in overrides if self._options(o) and not isinstance(o.value(), dict)]
        refused = next(filter(None, map(self._choice, groups)), None)
        if refused is not None:
            return refused
        chosen = [_one(o) for o in groups if o.type != OverrideType.DEL]
        defaults = compose("config", overrides=self.extra, return_hydra_config=True).hydra.runtime.choices
        for override in groups:
            if override.type == OverrideType.CHANGE and (name := _key(override)) not in defaults:
                return SettingError(name, override.value(), f"is a group without a default; add it with +{name}=...")
        cfg = compose("config", overrides=[*chosen, *self.extra], return_hydra_config=True)
        whole = plain(cfg)
        several = not (self.multirun or str(cfg.hydra.mode).endswith("MULTIRUN"))
        for override in overrides:
            if several and override.is_sweep_override():
                rule = "several values make a sweep: add -m; an experiment that is a sweep by itself needs "
                name, value = override.key_or_group, str(override.input_line).partition("=")[2]
                return SettingError(name, value, rule + "strategy=NAME beside options of a strategy")
            if override not in groups and (error := _setting(whole, override, conf)) is not None:
                return error
        return None

    def _options(self, override: Override) -> list[str]:
        found = self.loader.get_group_options(override.key_or_group, config_name="config", overrides=self.extra)
        return [option for option in found if not option.startswith("_")]

    def _choice(self, override: Override) -> SettingError | None:
        options = self._options(override)
        for value in override.sweep_iterator() if override.is_discrete_sweep() else [override.value()]:
            value = getattr(value, "text", value)  # quoted
            if value not in options and override.type != OverrideType.DEL and not isinstance(value, list):
                return SettingError(override.key_or_group, value, f"must be one of {', '.join(options)}")
        return None


def _found(conf: Path, arguments: Sequence[str]) -> Exception | None:
    """Return the mistake in a command line that Hydra has refused; None if it is none of those that are looked for."""
    options, given = split(normalised(arguments))
    searched = folders(conf, arguments)
    own = [f"'file://{folder.absolute()}'" for folder in searched[:-1] if folder.is_dir()]
    extra = [f"hydra.searchpath=[{','.join(own)}]"] if own else []
    extra += [word for word in given if word.startswith("hydra.searchpath=")]
    multirun = any(option in ("-m", "--multirun") for option in options)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            overrides = OverridesParser.create(config_loader=loader).parse_overrides(given)
            return _Line(loader, extra[-1:], multirun).error(overrides, searched)
    except (HydraException, OmegaConfBaseException):
        return None


def _setting(cfg: Mapping[str, Any], override: Override, conf: Sequence[Path]) -> Exception | None:
    """Return what is wrong with the name of a setting, or of one in its value."""
    key, value = override.key_or_group, override.value()
    value = str(override.input_line).partition("=")[2] if override.is_sweep_override() else value
    if key.startswith("strategy.") and "strategy" not in cfg:
        return choose_strategy(conf)
    leaves = {key: value} if override.type == OverrideType.DEL else dict(_leaves(key, value))
    for name, leaf in leaves.items() if override.type in (OverrideType.CHANGE, OverrideType.DEL) else ():
        node: Any = cfg
        for part in name.split("."):
            if isinstance(node, list):  # by position
                break
            if not isinstance(node, Mapping) or part not in node:
                return unknown(cfg, name, leaf)
            node = node[part]
    there = override.type == OverrideType.ADD and OmegaConf.select(OmegaConf.create(dict(cfg)), key) is not None
    return SettingError(key, value, f"is a setting already; change it with {key}=...") if there else None


def _without_plugin(error: Exception) -> SettingError | None:
    """Name the extra of this package that a launcher or sweeper of ours needs."""
    missing = error.missing_cfg_file if isinstance(error, MissingConfigException) else None
    group, _, name = (missing or "").removesuffix(".yaml").rpartition("/")
    extra = name.removeprefix("submitit_")
    rule = f"needs the extra {extra} of this package, which is not installed here"
    return SettingError(group, name, rule) if extra in _EXTRAS else None


def _unreadable(override: str) -> SettingError:
    """Say how a value is quoted that Hydra's grammar cannot read."""
    name, given, value = override.partition("=")
    if not given:
        return SettingError("argument", override, "must be a setting with its value, name=value")
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("'", "'\\''")
    return SettingError(name, value, f"cannot be read; quote it, for Hydra and for the shell: '{name}=\"{quoted}\"'")


def _in_their_words(error: BaseException) -> RunError:
    """Return the first line of what Hydra or OmegaConf says, with the setting where it is told apart."""
    setting = getattr(error, "full_key", None)
    return RunError(f"{setting}: " * bool(setting) + str(error).strip().partition("\n")[0])


def _one(override: Override) -> str:
    """Return the choice of a group, the first of several, as an override."""
    if not override.is_discrete_sweep():
        return str(override.input_line)
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


def _key(override: Override) -> str:
    return override.key_or_group if override.package is None else f"{override.key_or_group}@{override.package}"


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield the settings that a value sets, one or those of a group, with their values."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}", inner)
    else:
        yield path, value


def _paths(node: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield the dotted paths of all settings but Hydra's own."""
    for name, value in node.items():
        if path or name != "hydra":
            full = f"{path}.{name}" if path else str(name)
            yield full
            yield from _paths(value, full) if isinstance(value, Mapping | DictConfig) else ()
