import html as entities
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import records
from report import browser

from ensemble_transfer.report import plots
from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.page import html, write

HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\" & $x"


def a_record(strategy, seed, accuracy, /, **changes):
    spent = {"full": 3.0, "few": 1.0, "shift": 1.5}.get(strategy, 0.5)
    cost = {"steps": 10, "flops": int(spent * 10**9), "seconds": 1.5, "fine_tunings": spent}
    cost["fine_tunings_by_time"] = 1.25 * spent
    metrics = {
        "ensemble/accuracy": accuracy,
        "ensemble/nll": 1 - accuracy,
        "calibrated/nll": 0.9 - accuracy,
        "member/accuracy": accuracy - 0.1,
        "diversity/disagreement": 0.2,
    }
    prediction = {"networks": 3, "flops": 10**6}
    usual = {
        "ensemble": {"size": 3, "lineage": "shared", "classes": ["cat", "dog", "<b>ant</b>"]},
        "metrics": {f"target/test/{name}": value for name, value in metrics.items()},
        "cost": {"phases": {"full": cost}, "total": cost, "marginal": cost, "prediction": prediction},
        "curves": {"disagreement": [[0.0, 0.5], [0.5, 0.0]], "confusion": [[8, 2, 0], [0, 9, 1], [5, 0, 5]]},
        "config": {"seed": seed, "strategy": {"name": strategy}, "recipe": {"tiny": {"steps": 20}}},
        "environment": {"versions": {"torch": "2.13.0"}, "processor": "A CPU", "git_commit": 20 * "c0ffee"},
        "command": f"python -m ensemble_transfer +strategy={strategy} seed={seed}",
    }
    return replace(records.a_record(strategy, seed), **usual | changes)


RECORDS = [
    *(a_record("full", seed, 0.9 + seed / 1000) for seed in range(3)),
    *(a_record("head", seed, 0.5 + seed / 200) for seed in range(3)),
    *(a_record("shift", seed, 0.8 + seed / 400) for seed in range(3)),
    a_record("tiny", 0, 0.7, metrics={}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("comparison")
    comparison = Comparison.of(RECORDS)
    comparison.write(where)
    write(comparison, plots.draw(comparison.rows, where / "figures"), where)
    return where


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "index.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Collects start tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_loads_nothing(page, folder):
    assert not re.search(r"https?:|//\w", re.sub('base64,[^"]*', "", page.split("<script>")[0]))
    for tag, attributes in Elements(page).found:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        target = attributes.get("href", attributes.get("xlink:href", "#"))
        assert target.startswith(("#", "data:image/png;base64,")) or (folder / target).is_file()


def test_every_link_within_the_page_leads_somewhere_and_no_id_is_there_twice(page):
    elements = Elements(page).found
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes.get("href") or attributes.get("xlink:href") or "" for _, attributes in elements]
    inside = {link[1:] for link in links if link.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", page))
    assert inside <= set(ids)


def test_every_figure_has_a_text_for_it_and_a_caption(page):
    drawings = [a for tag, a in Elements(page).found if tag == "svg"]
    assert page.count("<figcaption>") == 2
    assert len(drawings) == 3  # quality against cost is there for phones too
    assert all(a["role"] == "img" and "full" in a["aria-label"] for a in drawings)


def test_the_page_tells_how_to_repeat_each_run(page):
    for record in RECORDS:
        assert f'<pre tabindex="0">{record.command}</pre>' in page
    assert entities.unescape(page).count('"tiny": {\n      "steps": 20\n    }') == len(RECORDS)
    for fact in ("c0ffee", "A CPU", "torch 2.13.0", "10 finished"):
        assert fact in page


def test_the_verdict_and_the_figure_come_first_and_how_it_was_run_last(page):
    parts = ["<h1>", 'class="verdict"', "Quality against cost", 'id="results"', "Differences to the baseline"]
    parts += ["More on quality", 'id="classes"', 'id="figures"', 'id="runs"', 'id="how"']
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    verdict = page[places[1] : places[2]]
    assert "Against full, in calibrated NLL, over 3 seeds: nothing is better; worse: head (by 0." in verdict


def test_the_largest_confusions_and_the_hardest_classes_are_named_as_text(page):
    classes = page[page.index('id="classes"') : page.index('id="figures"')]
    assert "&lt;b&gt;ant&lt;/b&gt; → cat (50% of &lt;b&gt;ant&lt;/b&gt;)" in classes
    assert "dog → dog" not in classes
    rows = re.findall(r'<th scope="row"[^>]* data-value="([^"]+)">', classes)
    assert [entities.unescape(name) for name in rows[-3:]] == ["<b>ant</b>", "cat", "dog"]


def test_beside_each_table_are_its_markdown_and_its_latex(page, folder):
    areas = {
        kind: [entities.unescape(t) for t in re.findall(rf'data-format="{kind}"[^>]*>(.*?)</textarea>', page, re.S)]
        for kind in ("markdown", "latex")
    }
    assert len(areas["markdown"]) == len(areas["latex"]) == page.count("<table")
    for kind, name in (("markdown", "table.md"), ("latex", "table.tex")):
        written = (folder / name).read_text(encoding="utf-8")
        assert sum(area.strip() in written for area in areas[kind]) == len(Comparison.of(RECORDS).tables)


MANY = [
    a_record(strategy, 0, 0.5 + budget / 10, config={"strategy": {"name": strategy}, "budget": budget})
    for strategy in ("few", "auto", "head", "turns")
    for budget in (0.5, 2.0)
]


def test_filters_are_offered_where_there_are_many_rows_of_several_budgets():
    text = html(Comparison.of(MANY), [])
    assert re.findall(r"<select name=\"(\w+)\">", text) == ["budget"]
    assert re.findall(r"<option>([^<]+)</option>", text) == ["0.5", "2"]
    assert text.count('<tr data-pair="digits -&gt; mnist" data-budget="0.5">') >= 4
    assert "<select" not in html(Comparison.of(MANY[:6]), [])


def test_differences_are_shown_with_their_interval(page):
    row = r'<th scope="row" data-value="shift">.*?</th>\s*<td class="words"[^>]*>full</td>\s*'
    assert re.search(
        row + r'<td data-name="accuracy" data-value="-0.09\d+">-0.09\d', page[page.index("Differences to the") :], re.S
    )
    assert re.search(r"<small>\[-0\.\d+, -0\.\d+\]</small>", page)


def test_what_a_record_holds_is_text_and_never_markup(tmp_path):
    told = {"versions": {HOSTILE: HOSTILE}, "processor": HOSTILE, "created": HOSTILE, "git_commit": HOSTILE}
    names = dict.fromkeys(("command", "strategy", "dataset", "backbone"), HOSTILE)
    size = {"size": HOSTILE, "lineage": HOSTILE}
    odd = a_record("shift", 0, 0.8, **names, ensemble=size, config={HOSTILE: HOSTILE}, environment=told)
    failed = a_record("shift", 1, 0.8, status="failed", error=HOSTILE)
    text = write(Comparison.of([a_record("full", 0, 0.9), odd, failed]), [], tmp_path).read_text(encoding="utf-8")
    tags = [tag for tag, _ in Elements(text).found]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert text.count("alert(1)") >= 12


def test_hostile_labels_stay_text_within_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "PLANS", [plan for plan in plots.PLANS if plan.name == "diversity"])
    comparison = Comparison.of([a_record(f"--><script>x</script>{HOSTILE}", 0, 0.8)])
    tags = [tag for tag, _ in Elements(html(comparison, plots.draw(comparison.rows, tmp_path))).found]
    assert (tags.count("script"), tags.count("svg")) == (1, 1)


def test_a_comparison_of_failed_runs_is_a_page_that_names_them():
    failed = a_record("shift", 4, 0.5, status="failed", error="lr=nan: must be finite")
    text = html(Comparison.of([failed]), [])
    assert "failed: shift, digits -&gt; mnist, seed 4: lr=nan: must be finite" in text
    assert "No run has finished." in text


# In a browser

chromium = pytest.mark.skipif(browser.executable() is None, reason="needs chromium")


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    found = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    """A page of many rows, with filters."""
    where = tmp_path_factory.mktemp("filtered")
    return write(Comparison.of(replace(record, seed=seed) for record in MANY for seed in (0, 1)), [], where)


@chromium
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1366, False)])
def test_the_page_fits_a_phone_and_a_laptop_and_nothing_complains(tab, folder, filtered, width, dark):
    for page in (folder / "index.html", filtered):
        tab.open(page, width, dark)
        tab.run("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        assert tab.run("innerWidth") == width
        assert tab.run("document.documentElement.scrollWidth") <= width
        right = "[...document.querySelectorAll('.cards td')].map(cell => cell.getBoundingClientRect().right)"
        assert max(tab.run(right)) <= width
        assert tab.complaints() == []
        if browser.axe() is not None:
            tab.run(browser.axe().read_text(encoding="utf-8"))
            found = tab.run("axe.run().then(result => result.violations.map(v => [v.id, v.impact, v.nodes[0].html]))")
            assert [violation for violation in found if violation[1] in ("serious", "critical")] == []


STATE = """(column => {
  const table = document.querySelector("table.sortable");
  const head = table.tHead.rows[0].cells[column];
  head.querySelector("button").click();
  const order = [...table.tBodies[0].rows].map(row => row.cells[0].dataset.value).join(" ");
  return head.getAttribute("aria-sort") + ": " + order;
})"""


@chromium
def test_a_heading_sorts_the_better_first_and_then_turns_round(tab, folder):
    tab.open(folder / "index.html", 1366)
    assert [tab.run(f"{STATE}({column})") for column in (1, 1, 0, 2)] == [
        "descending: full shift head tiny",
        "ascending: head shift full tiny",
        "ascending: full head shift tiny",
        "ascending: full shift head tiny",
    ]
    sorted_by = "document.querySelector('table').querySelectorAll('th:not([aria-sort=none])[scope=col]').length"
    assert tab.run(sorted_by) == 1


@chromium
def test_a_link_to_a_row_opens_its_runs(tab, folder):
    tab.open(folder / "index.html", 1366)
    opened = "new Promise(done => setTimeout(() => done(document.getElementById('row-1').open), 50))"
    assert tab.run(f"location.hash = '#row-1'; {opened}") is True


@chromium
def test_a_filter_hides_the_rows_of_other_budgets_in_all_tables(tab, filtered):
    tab.open(filtered, 1366)
    rows = "[...document.querySelectorAll('tbody tr')]"
    shown = f"{rows}.filter(row => row.dataset.budget && !row.hidden).map(row => row.dataset.budget)"
    assert set(tab.run(shown)) == {"0.5", "2"}
    choose = "select.value = '2'; select.dispatchEvent(new Event('change', { bubbles: true }))"
    tab.run(f"{{ const select = document.querySelector('select[name=budget]'); {choose}; }}")
    assert set(tab.run(shown)) == {"2"}
    assert tab.run("document.querySelector('.filters output').value.includes(' of ')")


@chromium
@pytest.mark.parametrize("allowed", [True, False])
def test_a_table_is_copied_or_shown_where_the_browser_forbids_that(tab, folder, allowed):
    tab.open(folder / "index.html", 1366)
    write = "text => { window.copied = text; }" if allowed else "() => { throw new Error('denied'); }"
    tab.run(f"Object.defineProperty(navigator, 'clipboard', {{ value: {{ writeText: async {write} }} }})")
    tab.run("document.querySelector('[data-copy=markdown]').click()")
    tab.run("new Promise(done => setTimeout(done, 50))")
    expected = Comparison.of(RECORDS).tables[0].markdown()
    if allowed:
        assert tab.run("window.copied").strip() == expected
    else:
        assert tab.run("document.querySelector('textarea').hidden") is False
        assert tab.run("getSelection().toString()").strip() == expected
