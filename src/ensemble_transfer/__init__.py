"""Transfer ensembles of deep networks to a new task.

Public API: ``from ensemble_transfer import Backbone, Shift, train_source``. ``__init__.pyi`` lists the names. Each is
imported at its first use, so that ``import ensemble_transfer`` costs nothing.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
