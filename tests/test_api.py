import importlib
import pkgutil
import subprocess
import sys

import pytest

import ensemble_transfer


@pytest.mark.parametrize("name", ensemble_transfer.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(ensemble_transfer, name).__doc__
    assert name in dir(ensemble_transfer)


def test_no_public_name_is_that_of_a_module():
    """Importing a module anywhere would put it in the place of the name."""
    modules = {module.name for module in pkgutil.iter_modules(ensemble_transfer.__path__)}
    assert not modules & set(ensemble_transfer.__all__)
    assert importlib.import_module("ensemble_transfer.metrics.evaluate") is ensemble_transfer.metrics.evaluate


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="ensemble_transfer attribute Shfit"):
        _ = ensemble_transfer.Shfit
    with pytest.raises(ImportError, match="Shfit"):
        exec("from ensemble_transfer import Shfit")


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'torch', 'numpy', 'pandas', 'timm', 'pytorch_lightning', 'hydra'}"
    code = f"import sys, ensemble_transfer; dir(ensemble_transfer); print({heavy} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"
