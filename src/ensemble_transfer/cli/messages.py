"""A user's mistake in one clear line."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ensemble_transfer.cli.arguments import folders, renewed, split
from ensemble_transfer.errors import RunError, SettingError


def one_line(error: Exception, conf: Path, arguments: Sequence[str]) -> str:
    """Return one line that names the setting, the value and what is allowed, by the folder of the configuration."""
    if isinstance(error, SettingError | RunError):
        return str(error)
    if lacks_strategy(error):
        return choose_strategy(folders(conf, arguments))
    if isinstance(error, MissingConfigException):
        return _missing_config(error)
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return f"the working directory cannot be used: {error.strerror}"
    if isinstance(error, OSError):
        where = "hydra.run.dir and hydra.sweep.dir say where runs are written"
        return f"{error.filename}: cannot be written ({error.strerror}); {where}"
    if isinstance(error, OverrideParseException) and "EQUAL" not in str(error):
        return _unreadable(error.override)
    if str(error).startswith("Config group override must be"):
        return _no_choice(conf, arguments)
    unknown = re.search(r"Could not override '([^']+)'", str(error))
    if unknown:
        return _unknown_key(unknown.group(1), conf, arguments)
    key = getattr(error, "full_key", None)
    if isinstance(error, OmegaConfBaseException) and key:
        return f"{key}: {str(error).splitlines()[0]}"
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else None
    return _several_values(str(cause or error)) or f"{_flat(str(cause or error))} (in: {' '.join(arguments)})"


def _several_values(said: str) -> str | None:
    """Say what a list of values needs, if Hydra did not take the command for a sweep."""
    found = re.match(r"Ambiguous value for argument '([^=]+)=(.*?)'", said)
    if found is None:
        return None
    hint = "add -m; an experiment that is a sweep by itself needs strategy=NAME beside options of a strategy"
    return f"{found[1]}={found[2]!r}: several values make a sweep: {hint}"


def _unreadable(override: str) -> str:
    """Say how a value is quoted that Hydra's grammar cannot read."""
    name, _, value = override.partition("=")
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("'", "'\\''")
    return f"{name}={value!r}: cannot be read; quote the value, for Hydra and for the shell: '{name}=\"{quoted}\"'"


def _no_choice(conf: Path, arguments: Sequence[str]) -> str:
    """Name the group that is given null instead of one of its options."""
    for argument in arguments:
        name, _, value = argument.lstrip("+").partition("=")
        folder = conf / name.partition("@")[0]
        if value == "null" and folder.is_dir():
            options = ", ".join(sorted(path.stem for path in folder.glob("[!_]*.yaml")))
            return f"{name}=None: must be one of {options}"
    return "a group of the configuration is given no text; see --help for its options"


def lacks_strategy(error: Exception) -> bool:
    """Return whether Hydra misses the choice of a strategy."""
    return str(error).startswith("You must specify 'strategy'")


def choose_strategy(conf: Sequence[Path]) -> str:
    """Return the strategies with a line each, the first line of their files; the first folder of several counts."""
    found = {path.stem: path for folder in reversed(conf) for path in (folder / "strategy").glob("[!_]*.yaml")}
    lines = ["choose a strategy:"]
    for name, path in sorted(found.items()):
        about = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"  strategy={name:<13} {about}")
    return "\n".join(lines)


def _missing_config(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").removesuffix(".yaml").rpartition("/")
    if (extra := name.removeprefix("submitit_")) in ("joblib", "slurm", "ray", "optuna"):
        return f"{group}={name!r}: needs the extra {extra} of this package, which is not installed here"
    options = ", ".join(option for option in error.options or [] if not option.startswith("_"))
    return f"{group}={name!r}: must be one of {options}" if options else _flat(str(error))


def _unknown_key(key: str, conf: Path, arguments: Sequence[str]) -> str:
    """Name the settings of the group in which an unknown key was looked for, with the same choices of groups."""
    if (conf / key).is_dir():
        return f"{key}: is a group without a default; add it with +{key}=..."
    searched = folders(conf, arguments)
    names = {a: a.lstrip("+").partition("=")[0].partition("@")[0] for a in split(arguments)[1]}
    chosen = [a for a, name in names.items() if any((folder / name).is_dir() for folder in searched)]
    groups = [renewed(a).split(",")[0] for a in chosen]
    parent = key.rpartition(".")[0]
    found = (_node(searched, [*groups, *rest], parent) for rest in ([], ["~strategy"]))
    node = next((node for node in found if node is not None), None)
    if node is None:
        return f"{key}: is not a setting"
    if parent == "evaluation.ood":
        return f"{key}: is not there yet; add it with +task@{key}=TASK"
    if parent == "backbone.options":
        return f"{key}: is not there yet; add it with +{key}=..."
    if key.rpartition(".")[2] in node:
        return f"{key}: is given a setting that it does not have; a new one is added with +{key}.NAME=..."
    known = ", ".join(str(name) for name in node)
    hint = "; for a folder of your own add dataset=target" if key == "dataset.target.path" else ""
    return f"{key}: is not a setting; {parent or 'the configuration'} has {known}{hint}"


def _node(conf: Sequence[Path], overrides: Sequence[str], path: str) -> DictConfig | None:
    """Return a group of settings as overrides compose it from folders of configurations; None where it is not."""
    GlobalHydra.instance().clear()
    also = ",".join(f"'file://{folder.absolute()}'" for folder in conf[:-1])
    try:
        with initialize_config_dir(str(conf[-1]), version_base="1.3"):
            cfg = compose("config", overrides=[*overrides, f"hydra.searchpath=[{also}]"])
        node = OmegaConf.select(cfg, path) if path else cfg
    except HydraException:
        return None
    return node if isinstance(node, DictConfig) else None


def _flat(text: str) -> str:
    """Return a message on one line, without OmegaConf's indented details and Hydra's pointers elsewhere."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("    ", "See https"))]
    return "; ".join(line.strip() for line in lines)
