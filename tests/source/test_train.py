"""What members of a lineage have in common, and where they part."""

from dataclasses import replace

import pytest
from same import equal

from ensemble_transfer import Recipe, SettingError, Shift
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.source.settings import LINEAGES, EnsembleSettings
from ensemble_transfer.source.train import _forked, keep_source, train_source
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.transfer.base import transfer_ensemble


@pytest.fixture(scope="module")
def short(recipes):
    return replace(recipes, ancestor=Recipe(6), source=Recipe(4))


@pytest.fixture(scope="module")
def train(backbone, source_task, short, fitter):
    def run(size, lineage="shared", fork=None, recipes=short, seed=0):
        return train_source(
            EnsembleSettings(size, lineage, fork), backbone, source_task.sealed(), seed, recipes, fitter
        )

    return run


@pytest.mark.parametrize("lineage", LINEAGES)
def test_a_larger_ensemble_contains_the_smaller_and_members_differ(train, lineage):
    (small, _), (large, ledger) = train(2, lineage), train(3, lineage)
    assert ledger.by_phase()["ancestor"].steps == (3 if lineage == "independent" else 1) * 6
    assert ledger.by_phase()["source"].steps == 3 * 4
    assert [entry.member for entry in ledger.entries if entry.phase == "source"] == [0, 1, 2]
    assert all(equal(a, b) for a, b in zip(small.members, large.members[:2], strict=True))
    assert not any(equal(large.members[i], large.members[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert large.lineage == lineage


def test_a_snapshot_goes_on_from_the_one_before(train, monkeypatch):
    seen: list[tuple[str, Start]] = []
    fit = Fitter.fit

    def watched(self, architecture, starts, data, recipe, phase, *more):
        seen.extend((phase, start) for start in starts)
        return fit(self, architecture, starts, data, recipe, phase, *more)

    monkeypatch.setattr(Fitter, "fit", watched)
    members = train(3, "snapshot")[0].members
    starts = [start for phase, start in seen if phase == "source"]
    assert [start.member for start in starts] == [0, 1, 2]
    for member in (1, 2):
        assert equal(starts[member].weights, members[member - 1])
    assert len({start.seed for start in starts}) == 3
    assert equal(members[0], train(1, "shared")[0].members[0])


@pytest.mark.parametrize("lineage", LINEAGES)
def test_members_of_one_ancestor_are_equal_until_they_part(train, short, lineage):
    members = train(3, lineage, recipes=replace(short, source=Recipe(0)))[0].members
    assert equal(members[0], members[1]) == equal(members[0], members[2]) == (lineage != "independent")


def test_members_that_never_part_are_copies_which_no_shift_serves(train, short, target_task):
    ensemble, _ = train(3, recipes=replace(short, source=Recipe(0)))
    assert ensemble.lineage == "copies"
    with pytest.raises(SettingError, match="needs members that differ; here all are copies of one encoder"):
        transfer_ensemble(Shift(), ensemble, target_task)


@pytest.mark.parametrize("fork", [0.0, 0.25])
def test_a_fork_divides_the_steps_and_keeps_their_sum(recipes, fork):
    recipes = replace(recipes, ancestor=Recipe(500, lr=0.01), source=Recipe(150, lr=0.02))
    forked = _forked(recipes, fork)
    assert forked.ancestor == replace(recipes.ancestor, steps=round(650 * fork))
    assert forked.source == replace(recipes.source, steps=650 - round(650 * fork))
    assert replace(forked, ancestor=recipes.ancestor, source=recipes.source) == recipes
    assert _forked(recipes, None) is recipes


def test_a_fork_is_refused_where_there_is_no_common_training():
    for fork in (1.0, float("nan")):
        with pytest.raises(SettingError, match=r"fork=.*must be in \[0, 1\)"):
            EnsembleSettings(2, "shared", fork)
    with pytest.raises(SettingError, match=r"fork=0\.1: must be null: independent"):
        EnsembleSettings(2, "independent", 0.1)
    with pytest.raises(SettingError, match=r"fork=0\.1: must be null: members that exist"):
        EnsembleSettings(1, "shared", 0.1, ["somewhere"])


def test_a_fork_is_refused_where_a_folder_holds_all_members(source_ensemble, backbone, tmp_path):
    source_ensemble.save(tmp_path / "saved")
    with pytest.raises(SettingError, match=r"fork=0\.1: must be null: members that exist"):
        EnsembleSettings(len(source_ensemble), "shared", 0.1, [str(tmp_path / "saved")]).check(backbone)


def test_a_source_ensemble_is_kept_once_and_written_again_when_it_is_damaged(source_ensemble, store, caplog):
    folder = keep_source(source_ensemble, store)
    assert folder == store.ensemble(source_ensemble.fingerprint)
    assert keep_source(source_ensemble, store) is None
    member = folder / "member_01.safetensors"
    whole = member.read_bytes()
    member.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert keep_source(source_ensemble, store) == folder
    assert member.read_bytes() == whole
    [message] = caplog.messages
    assert message.startswith(f"{folder} is damaged (member=")
    other = replace(source_ensemble, architecture=replace(source_ensemble.architecture, mean=(0.1,)))
    assert keep_source(other, store) == folder  # the same weights, another network
    assert Ensemble.load(folder).architecture == other.architecture
    assert len(caplog.messages) == 1
