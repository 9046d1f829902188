"""The page of the frontier says what its records say: verdicts by the protocol, on common confirmation seeds only."""

import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
import yaml
from records import a_record, rows_below, saved
from scipy import stats

ROOT = Path(__file__).parents[2]
SEEDS = tuple(range(100, 110))
PAIRS = ("a -> b", "a -> c")
CLASS = "ensemble_transfer.transfer.strategies"

CURVE = {"size": [1, 2, 3], "accuracy": [0.5, 0.6, 0.7], "calibrated_nll": [0.7, 0.5, 0.4]}
PHASES = {"head": {"fine_tunings": 0.05}, "pilot": {"fine_tunings": 0.12}, "full": {"fine_tunings": 0.8}}
TWO = {"strategy": "few", "members": 2, "cycles": "[]"}
ONE = {"strategy": "few", "members": 1, "cycles": "[]"}
CLAIMS = {
    "title": "A page",
    "protocol": "PROTOCOL.md",
    "first seed": 100,
    "groups": {"first": ["a -> b"], "second": ["a -> c"], "all": ["first", "second"]},
    "claims": [
        {"id": "good", "says": "Good.", "group": "all", "measure": "calibrated NLL", "own": {"strategy": "snapshots"}},
        {"id": "bad", "says": "Bad.", "group": "all", "measure": "accuracy", "own": {"strategy": "zero_shot"}},
        {"id": "unclear", "says": "Unclear.", "group": "first", "measure": "AURC", "own": {"strategy": "snapshots"}},
        {"id": "nobody", "says": "Nobody ran it.", "group": "all", "measure": "accuracy", "own": {"strategy": "turns"}},
    ],
}
for claim in CLAIMS["claims"]:
    claim |= {"budgets": [1], "other": TWO}
CLAIMS["claims"] += [
    {"id": "near", "says": "Near.", "group": "all", "measure": "accuracy", "budgets": [1, 2], "margin": 0.01,
     "own": {"strategy": "auto"}, "other": "best"},
    {"id": "rule", "says": "Rule.", "group": "all", "measure": "accuracy", "budgets": [1],
     "own": {"strategy": "auto"}, "other": "rule"},
    {"id": "wrong", "says": "Wrong.", "group": "all", "measure": "accuracy", "budgets": [2], "margin": 0.01,
     "own": {"strategy": "auto", "lr": 3}, "other": {"strategy": "auto"}},
    {"id": "later", "says": "Later.", "group": "first", "measure": "gain per fine-tuning", "budgets": [2],
     "own": {"strategy": "zero_shot", "members": 2, "budget": None}, "other": TWO},
]  # fmt: skip
CLAIMS["rivals"] = {"all": [TWO, *({"strategy": name, "budget": 1} for name in ("snapshots", "zero_shot", "head"))]}
CLAIMS["looks"] = [
    {"id": "look", "says": "A look.", "group": "all", "measure": "calibrated NLL", "budgets": [None],
     "own": {"strategy": "zero_shot", "members": 2}, "other": {"strategy": "zero_shot, scale 0", "members": 2}},
    CLAIMS["claims"][-1] | {"id": "source", "measure": "gain per fine-tuning, source too"},
]  # fmt: skip


def jitter(seed, scale, salt):
    """A number per seed whose mean over the ten seeds is 0."""
    return scale * (seed * (1, 3, 7, 9)[salt % 4] % 10 - 4.5) / 4.5


def run(pair, strategy, seed, budget, accuracy, nll, *, options=None, lr=0.01, validation=0.5, cost=None, aurc=0.1):
    metrics = {
        "target/test/ensemble/accuracy": accuracy,
        "target/test/calibrated/nll": nll,
        "target/test/selective/aurc": aurc,
        "target/validation/calibrated/nll": validation,
    }
    spent = cost or budget or 1.0
    total = {"flops": 10**9, "fine_tunings": spent, "fine_tunings_by_time": 1.25 * spent, "cpu_seconds": 4 * spent}
    recipe = {"full": {"lr": lr, "steps": 10}, "source": {"steps": 5}}
    own = {"_target_": f"{CLASS}.{strategy}.{strategy.title()}"} | (options or {})
    return a_record(
        strategy,
        seed,
        pair,
        metrics=metrics,
        cost={"phases": PHASES, "total": total | {"seconds": 9.0}, "marginal": None},
        config={"seed": seed, "budget": budget, "strategy": own, "recipe": recipe},
        ensemble={"size": own.get("members") or 8, "lineage": "shared"},
        environment={"processor": "A CPU"},
    )


def few(pair, seed, budget, members, accuracy, nll, cycles=()):
    options = {"members": members, "cycles": list(cycles)}
    as_written = options if seed % 2 else dict(reversed(options.items()))  # the order of settings says nothing
    return run(pair, "few", seed, budget, accuracy, nll, options=as_written)


def of_seed(pair, seed):
    """All runs of a pair with one seed, and a run of a strategy that only some seeds have."""
    base = 0.6 + jitter(seed, 0.02, 0)
    wrong = run(pair, "auto", seed, 2, base + 0.02 - 0.08 + jitter(seed, 0.002, 1), 0.5, lr=0.03)
    runs = [
        few(pair, seed, 1, 1, base - 0.02, 0.70),
        few(pair, seed, 1, 2, base, 0.60 + jitter(seed, 0.001, 1)),
        few(pair, seed, 1, 2, base - 0.03, 0.65, cycles=[0.6, 0.2, 0.2]),
        few(pair, seed, 2, 2, base + 0.02, 0.50),
        run(pair, "snapshots", seed, 1, base - 0.01, 0.55, aurc=0.1 + jitter(seed, 0.01, 3)),
        run(pair, "zero_shot", seed, 1, base - 0.05 + jitter(seed, 0.01, 2), 0.66, options={"members": None}),
        run(pair, "zero_shot", seed, None, base, 0.66 + jitter(seed, 0.001, 2), options={"members": 2}, cost=1.1),
        run(pair, "zero_shot", seed, None, base, 0.71, options={"members": 2, "scale": 0.0}, cost=1.1),
        replace(run(pair, "full", seed, None, base, 0.4, cost=2), curves={"ensemble_size": CURVE}),
        run(pair, "head", seed, 1, base - 0.1, 0.9, validation=0.4 if seed % 2 else 0.9),
        run(pair, "auto", seed, 1, base - 0.002 + jitter(seed, 0.001, 4), 0.6),
        run(pair, "auto", seed, 2, base + 0.02 + jitter(seed, 0.001, 4), 0.5),
        replace(wrong, curves={"choice": {"lr": [0.01] * 3 if seed % 2 else [0.03, 0.01]}, "loss": []}),
    ]
    return runs if seed % 3 else [*runs, run(pair, "star", seed, 1, base + 0.3, 0.1)]


@pytest.fixture(scope="module")
def records():
    return [record for pair in PAIRS for seed in (0, 1, 2, *SEEDS) for record in of_seed(pair, seed)]


def kept(records, folder):
    saved(folder, *records)
    (folder / "claims.yaml").write_text(yaml.safe_dump(CLAIMS))
    return folder


def report(forks, folder, *arguments):
    script = ROOT / "scripts" / "evidence" / "frontier_report.py"
    command = [script, folder, folder / "page", "--claims", folder / "claims.yaml", *arguments]
    return forks.run(*command, cwd=folder)


@pytest.fixture(scope="module")
def page(forks, records, tmp_path_factory):
    folder = kept(records, tmp_path_factory.mktemp("frontier"))
    done = report(forks, folder)
    assert done.returncode == 0, done.stderr
    return (folder / "page" / "README.md").read_text()


@pytest.fixture(scope="module")
def claims(page):
    found = {row["claim"].split("(")[1].rstrip(")"): row for row in rows_below("Claims", page)}
    assert list(found) == [claim["id"] for claim in CLAIMS["claims"]]
    return found


def p_of(row):
    """Return the p-value of a claim to three digits; 1 where it was not run."""
    return float({"-": 1, "below 0.001": 0}.get(row["p"], row["p"]))


def test_verdicts_follow_sign_margin_and_holm(claims):
    verdicts = {name: row["verdict"].strip("*") for name, row in claims.items()}
    assert verdicts == {
        "good": "supported",
        "bad": "refuted",
        "unclear": "undecided",
        "nobody": "not run",
        "near": "supported",
        "rule": "undecided",
        "wrong": "refuted",
        "later": "supported",
    }


def test_a_lead_is_the_mean_over_pairs_paired_by_seed_with_students_interval(claims):
    own = [mean(jitter(seed, 0.01, 2) - 0.05 for _ in PAIRS) for seed in SEEDS]
    expected = stats.ttest_1samp(own, 0)
    low, high = expected.confidence_interval(0.95)
    assert claims["bad"]["lead"] == f"{mean(own):+.3f} [{low:+.3f}, {high:+.3f}]"
    assert claims["bad"]["n"] == "10"
    one = [jitter(seed, 0.01, 2) - 0.05 for seed in SEEDS]
    low, high = stats.ttest_1samp(one, 0).confidence_interval(0.95)
    cell = f"{mean(one):+.3f} [{low:+.3f}, {high:+.3f}]"
    assert claims["bad"]["by pair"] == f"a -> b {cell}; a -> c {cell}"
    unclear = [jitter(seed, 0.01, 3) for seed in SEEDS]  # few's is .1; lower is better
    assert p_of(claims["unclear"]) == pytest.approx(stats.ttest_1samp(unclear, 0).pvalue, abs=5e-4)


def test_within_a_margin_is_tested_one_sided(claims):
    own = [mean([-0.002 + jitter(s, 0.001, 4), jitter(s, 0.001, 4)]) for s in SEEDS]
    p = stats.ttest_1samp(own, -0.01, alternative="greater").pvalue
    assert p_of(claims["near"]) == pytest.approx(p, abs=5e-4)
    assert claims["near"]["lead"].startswith("-0.001 [")
    assert claims["wrong"]["lead"].startswith("-0.080 [")


def test_holm_counts_claims_that_were_not_run(claims):
    ps = sorted(map(p_of, claims.values()))
    assert len(ps) == 8
    assert float(claims["unclear"]["p after Holm"]) == pytest.approx(min(1, 2 * ps[6]), abs=1e-3)
    assert claims["nobody"]["p after Holm"] == "1.000"


def test_the_best_is_the_best_of_the_rivals(page):
    regret = {(r["pair"], r["budget"], r["measure"]): r for r in rows_below("Regret of auto", page)}
    assert len(regret) == 8
    assert regret["a -> b", "1", "accuracy"]["auto minus the best"].startswith("-0.002 [")  # few; star is no rival
    assert regret["a -> b", "2", "accuracy"]["rate x 3 minus auto"].startswith("-0.080 [")
    assert regret["a -> b", "2", "accuracy"]["rate / 3"] == "-"
    assert regret["a -> b", "2", "accuracy"]["time / budget"].startswith("1.25")
    assert regret["a -> b", "2", "accuracy"]["choosing"] == "0.17"  # heads and pilots; full is no choosing
    ruled = mean(0.1 if seed % 2 else 0.0 for seed in SEEDS) - 0.002
    assert regret["a -> b", "1", "accuracy"]["minus the rule"].startswith(f"{ruled:+.3f} [")


def test_runs_of_auto_are_sorted_by_the_rates_that_they_took(page):
    one, both = (row for row in rows_below("What auto took", page) if row["pair"] == "a -> b")
    assert (one["rate given"], one["budget"], one["rates taken"], one["runs"]) == ("3", "2", "1", "5")
    assert (both["rates taken"], both["members fine-tuned"], both["calibrated NLL"]) == ("1, 3", "2.0", "+0.000")
    assert one["accuracy"] == f"{-0.08 + mean(jitter(seed, 0.002, 1) for seed in SEEDS if seed % 2):+.3f}"


@pytest.mark.parametrize(("strategy", "seeds", "budget"), [("few", [109], 2), ("few", SEEDS, 2), ("head", [100], 1)])
def test_there_is_no_best_before_all_rivals_have_all_seeds(forks, records, tmp_path, strategy, seeds, budget):
    missing = {("a -> c", strategy, seed, budget) for seed in seeds}
    folder = kept([r for r in records if (r.dataset, r.strategy, r.seed, r.config["budget"]) not in missing], tmp_path)
    assert report(forks, folder).returncode == 0
    text = (folder / "page" / "README.md").read_text()
    near = next(row for row in rows_below("Claims", text) if row["claim"] == "Near. (near)")
    assert near["verdict"] == "not run"
    regret = {(r["pair"], int(r["budget"])): r["auto minus the best"] for r in rows_below("Regret of auto", text)}
    assert {run for run, lead in regret.items() if lead == "-"} == {("a -> c", budget)}


def test_members_added_later_are_priced_beyond_the_donor(page, claims):
    added = {(row["pair"], row["added by"]): row for row in rows_below("Members that are added later", page)}
    assert added["a -> b", "zero_shot"]["price"] == "0.10"
    assert added["a -> b", "zero_shot"]["NLL's gain per fine-tuning"].startswith("0.400 ±")
    assert added["a -> b", "zero_shot"]["NLL's gain per member"].startswith("0.040 ±")
    assert added["a -> b", "zero_shot, scale 0"]["NLL's gain per member"] == "-0.010"  # and no part of the claim
    assert added["a -> b", "few"]["NLL's gain per fine-tuning"] == "0.200"
    assert added["a -> b", "few"]["worth of all"] == "2.00"  # its NLL is .5
    assert added["a -> c", "zero_shot"]["worth of all"].startswith("1.20 ±")
    assert claims["later"]["lead"].startswith("+0.200 [")


def test_a_look_has_an_interval_and_no_verdict(page):
    row, source = rows_below("Looks", page)
    assert row["look"] == "A look. (look)"
    assert row["lead"].startswith("+0.050 [")
    assert row["by pair"].count("[") == 2
    assert "verdict" not in row
    assert source["lead"].startswith(f"{0.04 / 0.6 - 0.2 / 1.5:+.3f} [")  # half a fine-tuning more for either member


def test_tables_have_every_strategy_and_only_confirmation_seeds(page):
    table = rows_below("a -> b", page)
    assert sorted(row["strategy"] for row in table if row["budget"] == "1") == [
        "auto",
        "few (members=1)",
        "few (members=2)",
        "few (members=2, cycles=[0.6, 0.2, 0.2])",
        *("head", "snapshots", "star", "zero_shot"),
    ]
    assert {row["n"] for row in table if "star" not in row["strategy"]} == {"10"}
    assert "confirmation seeds 100 to 109" in page


def test_a_mean_over_pairs_is_of_strategies_with_all_seeds_on_all_of_them(page):
    found = {(row["budget"], row["strategy"]): row for row in rows_below("Means over pairs", page)}
    assert ("1", "star") not in found
    each = [rows_below(pair, page) for pair in PAIRS]
    [one, two] = [next(r for r in table if (r["budget"], r["strategy"]) == ("1", "auto")) for table in each]
    expected = mean(float(row["accuracy"].split(" ±")[0]) for row in (one, two))
    assert float(found["1", "auto"]["accuracy"].split(" ±")[0]) == pytest.approx(expected, abs=0.0011)
    assert found["1", "auto"]["n"] == "10"


def test_before_all_seeds_are_there_nothing_is_decided(forks, records, tmp_path):
    folder = kept([record for record in records if record.seed not in (0, 1, 2, 109)], tmp_path)
    assert report(forks, folder).returncode == 0
    table = rows_below("Claims", (folder / "page" / "README.md").read_text())
    assert {row["verdict"] for row in table} == {"not run"}
    assert {row["p after Holm"] for row in table} == {"1.000"}


def test_packed_records_give_the_same_page_wherever_they_lay(forks, page, records, tmp_path):
    folder = kept([record for record in reversed(records) if record.seed >= 100], tmp_path / "runs")
    assert report(forks, folder, "--pack", tmp_path / "records.tar.xz").returncode == 0
    shutil.unpack_archive(tmp_path / "records.tar.xz", tmp_path / "kept", "xztar")
    (tmp_path / "kept" / "claims.yaml").write_text(yaml.safe_dump(CLAIMS))
    assert report(forks, tmp_path / "kept").returncode == 0
    assert (tmp_path / "kept" / "page" / "README.md").read_text() == page


def changed(record, **groups):
    """A record with other settings in some groups of its configuration."""
    own = {name: record.config.get(name, {}) | settings for name, settings in groups.items()}
    return replace(record, config=record.config | own)


def test_what_cannot_be_told_apart_and_what_is_missing_are_refused(forks, records, tmp_path):
    twice = replace(changed(records[4], strategy={"first": 0.3}), seed=100)
    done = report(forks, kept([r for r in [*records, twice] if r.seed >= 100], tmp_path / "twice"))
    assert done.returncode == 2
    assert "seed 100: several runs fit {'strategy': 'snapshots'} at 1" in done.stderr
    done = report(forks, kept(records[:3], tmp_path / "none"))
    assert (done.returncode, done.stderr) == (2, "error: no finished run of seeds 100 to 109 below the folders\n")


@pytest.mark.parametrize(
    ("strategy", "groups", "said"),
    [
        ("snapshots", {"recipe": {"probe": {"lr": 0.05}}}, "'snapshots'} at 1: seeds 100 and 105 have recipe.probe."),
        ("snapshots", {"strategy": {"first": 0.3}}, "'snapshots'} at 1: seeds 100 and 105 have strategy.first"),
        ("head", {"backbone": {"name": "another"}}, "a -> b: seeds 100 and 105 have backbone.name None and another"),
        ("full", {"recipe": {"full": {"lr": 0.01, "steps": 20}}}, "have recipe.full.steps 10 and 20"),
    ],
)
def test_runs_of_other_settings_are_no_seeds_of_one_sample(forks, records, tmp_path, strategy, groups, said):
    own = [changed(r, **groups) if r.strategy == strategy and r.seed >= 105 else r for r in records]
    done = report(forks, kept(own, tmp_path))
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize("groups", [{"recipe": {"probe": {"lr": 0.05}}}, {"evaluation": {"corruptions": ["contrast"]}}])
def test_what_a_strategy_does_not_use_and_corruptions_may_differ_from_the_others(forks, records, tmp_path, groups):
    own = [changed(r, **groups) if r.strategy == "zero_shot" else r for r in records]
    assert report(forks, kept(own, tmp_path)).returncode == 0


@pytest.mark.parametrize("protocol", ["benchmarks/frontier", "benchmarks/photos"])
def test_the_claims_of_a_protocol_can_be_read(monkeypatch, protocol):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "evidence"))
    from frontier_claims import GAIN, MEASURES, read_protocol

    found = read_protocol(ROOT / protocol / "claims.yaml")
    text = (ROOT / found.page).read_text()
    assert len({claim.id for claim in found.claims}) == len(found.claims)
    for claim in found.claims:
        assert claim.measure in {*MEASURES, GAIN}
        assert claim.id in text
        assert claim.pairs
    assert all(found.rivals[pair] for claim in found.claims if claim.other == "best" for pair in claim.pairs)


def test_small_pairs_were_not_run_again(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "evidence"))
    from frontier_claims import read_protocol

    found = read_protocol(ROOT / "benchmarks" / "frontier" / "claims.yaml")
    small = {pair for claim in found.claims if claim.id.endswith("-small") for pair in claim.pairs}
    assert not small & {*found.again}
    assert {"clipart -> emoji", "mate -> oxygen", "clipart -> stamps", "clipart"} < {*found.again}


@pytest.mark.parametrize("margin", [None, 0.01])
def test_sign_flips_are_those_of_scipy(monkeypatch, margin):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "evidence"))
    from frontier_claims import Claim

    leads = {"a": {s: jitter(s, 0.02, 1) + 0.01 for s in SEEDS}, "b": {s: jitter(s, 0.05, 2) for s in SEEDS}}
    over = [mean(of[s] for of in leads.values()) + (margin or 0) for s in SEEDS]
    reference = stats.permutation_test([over], mean, permutation_type="samples", n_resamples=2000, vectorized=False)
    claim = Claim("id", "Says.", "accuracy", ["a", "b"], [1], {}, {}, margin)
    assert claim.flips(leads) == pytest.approx(reference.pvalue)


def test_a_group_that_was_run_again_has_the_reserve_seeds_alone(forks, records, tmp_path):
    again = [replace(r, seed=r.seed + 100) for r in records if r.dataset == "a -> c" and r.seed in SEEDS[:4]]
    folder = kept([*records, *again], tmp_path)
    (folder / "claims.yaml").write_text(yaml.safe_dump(CLAIMS | {"run again": {"second": 200}}))
    assert report(forks, folder).returncode == 0
    page = (folder / "page" / "README.md").read_text()
    assert "seeds 100 to 109, and 200 to 203 on a -> c, one thread" in page
    assert {row["n"] for row in rows_below("a -> c", page)} <= {"1", "2", "4"}
    assert {row["n"] for row in rows_below("a -> b", page)} >= {"10"}
    assert report(forks, folder, "--development").returncode == 0


@pytest.mark.parametrize(
    ("archive", "folder", "seeds", "verdict"),
    [("development", "development", ["--development"], "no spread"), ("records", "", [], "**supported**")],
)
def test_the_kept_pages_of_photos_are_those_of_their_records(forks, tmp_path, archive, folder, seeds, verdict):
    """On development seeds one of the claims has the same lead on every seed, and no verdict."""
    photos = ROOT / "benchmarks" / "photos"
    with tarfile.open(photos / f"{archive}.tar.xz") as packed:
        packed.extractall(tmp_path / "records", filter="data")
    command = ["records", "page", *seeds, "--claims", photos / "claims.yaml"]
    done = forks.run(ROOT / "scripts" / "evidence" / "frontier_report.py", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "page" / "README.md").read_text()
    assert text == (photos / folder / "README.md").read_text()
    verdicts = {row["claim"].split("(")[-1].rstrip(")"): row["verdict"] for row in rows_below("Claims", text)}
    assert verdicts["auto-best"] == verdict
