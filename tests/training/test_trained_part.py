import pytest
import torch

from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.trained_part import HeadOnFeatures, WholeMember

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def architecture(backbone):
    return backbone.architecture(8, 1, 5)


def test_every_view_goes_with_the_label_of_its_image(architecture, target_task):
    data, weights = target_task.train, architecture.initial(0)
    recipe = Recipe(1, batch_size=60, augment="crop", views=3)
    batches = HeadOnFeatures(architecture).batches([weights, weights], data, recipe, [4, 5], CPU)
    assert len(batches.labels) == 3 * len(data)
    shown = torch.cat([batches[step][0] for step in range(5)], 1)
    labels = torch.cat([batches[step][1] for step in range(5)], 1)
    for member in range(2):
        assert len(shown[member].unique(dim=0)) > 2 * len(data)
        for features, label in zip(shown[member], labels[member], strict=True):
            places = (batches.inputs[member] == features).all(-1).nonzero()[:, 0] % len(data)
            assert label in data.labels[places]
    assert not torch.equal(batches.inputs[0], batches.inputs[1])  # views are a member's own


def test_a_head_without_augmentation_sees_every_image_as_it_is(architecture, target_task):
    weights = architecture.initial(0)
    one, other = (
        HeadOnFeatures(architecture).batches([weights], target_task.train, Recipe(1), [seed], CPU) for seed in (1, 2)
    )
    assert torch.equal(one.inputs[0], other.inputs[0])
    assert torch.equal(one.labels, target_task.train.labels)


def test_whole_members_share_the_images(architecture, target_task):
    weights = architecture.initial(0)
    batches = WholeMember(architecture).batches(
        [weights] * 2, target_task.train, Recipe(1, augment="crop"), [1, 2], CPU
    )
    assert all(member is target_task.train.images for member in batches.inputs)
    assert batches.augment == "crop"
