"""What a shifted member and a new head cost, in fine-tunings by FLOPs, for 500 to 100,000 training images.

Nothing is trained. A member with a probed head, all its parts; and with the donor's head, which costs nothing.
"""

from __future__ import annotations

from dataclasses import replace

from measure import Options, Result

from ensemble_transfer.runs.settings import preset_object
from ensemble_transfer.transfer.prices import Prices

NETS = {"small_resnet": ("default", 28, 1), "efficientnet_lite0": ("pretrained", 64, 3)}


def run(options: Options) -> Result:
    """Return the prices of the presets."""
    found: Result = {}
    for net, (recipe, size, channels) in NETS.items():
        recipes = preset_object("recipe", recipe)
        architecture = preset_object("backbone", net).architecture(size, channels, 10)
        for examples in (500,) if options.quick else (500, 1_000, 5_000, 20_000, 100_000):
            prices = Prices(architecture, recipes, examples, 100, 8)
            given = (prices.statistics + prices.tiny) / prices.full
            found[f"{net}, {examples:,} images: probed head"] = given + prices.probe / prices.full
            found[f"{net}, {examples:,} images: donor's head"] = given
            found[f"{net}, {examples:,} images: strategy head"] = prices.head / prices.full
            on_all = replace(prices, recipes=replace(recipes, statistics=None)).statistics
            found[f"{net}, {examples:,} images: statistics on all"] = on_all / prices.full
    return found
