import html as entities
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ensemble_transfer.report import plots
from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.page import html, write
from ensemble_transfer.report.record import Record

HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\" & $x"


def a_record(strategy, seed, accuracy, /, **changes):
    cost = {"steps": 10, "flops": 10**9, "seconds": 1.5}
    record = Record(
        "finished",
        strategy,
        seed,
        "digits -> mnist",
        "resnet10t",
        {"size": 3, "lineage": "shared"},
        metrics={
            "target/test/ensemble/accuracy": accuracy,
            "target/test/ensemble/nll": 1 - accuracy,
            "target/test/member/accuracy": accuracy - 0.1,
            "target/test/diversity/disagreement": 0.2,
        },
        cost={"phases": {"full": cost}, "total": cost, "marginal": cost},
        curves={"disagreement": [[0.0, 0.5], [0.5, 0.0]]},
        config={"seed": seed, "strategy": {"name": strategy}, "recipe": {"tiny": {"steps": 20}}},
        environment={"versions": {"torch": "2.13.0"}, "processor": "A CPU", "git_commit": 20 * "c0ffee"},
        command=f"python -m ensemble_transfer +strategy={strategy} seed={seed}",
    )
    return replace(record, **changes)


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
    assert not re.search(r"https?:|//\w", page.split("<script>")[0])
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
    assert len(drawings) == page.count("<figcaption>") == 4
    assert all(a["role"] == "img" and "full" in a["aria-label"] for a in drawings)


def test_the_page_tells_how_to_repeat_each_run(page):
    for record in RECORDS:
        assert f"<pre>{record.command}</pre>" in page
    assert page.count(entities.escape('"tiny": {\n      "steps": 20\n    }')) == len(RECORDS)
    for fact in ("c0ffee", "A CPU", "torch 2.13.0", "10 finished"):
        assert fact in page


def test_only_the_significantly_best_is_marked(page):
    marked = re.findall(r'<td data-value="([^"]+)" class="best">', page)
    complete = html(Comparison.of(RECORDS[:-1]), [])
    assert marked == []  # tiny has no numbers: nobody can say
    assert float(re.findall(r'<td data-value="([^"]+)" class="best">', complete)[0]) == pytest.approx(0.901)


def test_differences_are_shown_with_their_interval(page):
    assert re.search(
        r'<th scope="row" data-value="shift">shift</th><td>full</td><td data-value="-0.09\d+">-0.09\d', page
    )
    assert re.search(r"<small>\[-0\.\d+, -0\.\d+\]</small>", page)


@pytest.mark.parametrize(
    "changes",
    [
        {"command": HOSTILE},
        {"strategy": HOSTILE},
        {"dataset": HOSTILE},
        {"backbone": HOSTILE},
        {"ensemble": {"size": HOSTILE, "lineage": HOSTILE}},
        {"config": {HOSTILE: HOSTILE}},
        {
            "environment": {
                "versions": {HOSTILE: HOSTILE},
                "processor": HOSTILE,
                "created": HOSTILE,
                "git_commit": HOSTILE,
            }
        },
        {"status": "failed", "error": HOSTILE},
    ],
)
def test_what_a_record_holds_is_text_and_never_markup(changes, tmp_path):
    comparison = Comparison.of([a_record("full", 0, 0.9), a_record("shift", 0, 0.8, **changes)])
    text = write(comparison, [], tmp_path).read_text(encoding="utf-8")
    tags = [tag for tag, _ in Elements(text).found]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert "alert(1)" in text


def test_hostile_labels_stay_text_within_figures(tmp_path):
    comparison = Comparison.of([a_record(f"--><script>x</script>{HOSTILE}", 0, 0.8)])
    text = html(comparison, plots.draw(comparison.rows, tmp_path))
    tags = [tag for tag, _ in Elements(text).found]
    assert tags.count("script") == 1
    assert tags.count("svg") == 4


def test_a_comparison_of_failed_runs_is_a_page_that_names_them():
    failed = a_record("shift", 4, 0.5, status="failed", error="lr=nan: must be finite")
    text = html(Comparison.of([failed]), [])
    assert "failed: shift, digits -&gt; mnist, seed 4: lr=nan: must be finite" in text
    assert "No run has finished." in text


def test_an_old_record_without_curves_cost_and_environment_makes_a_page():
    old = Record("finished", "shift", 0, "digits -> mnist", "resnet10t", {"size": 3})
    assert "the record has no command" in html(Comparison.of([old]), [])


# In a browser


SCRIPT = """<script>
const log = [];
const table = document.querySelector("table.sortable");
const heads = [...table.tHead.rows[0].cells];
function state(column) {
  const order = [...table.tBodies[0].rows].map(row => row.cells[0].dataset.value).join(" ");
  log.push(heads[column].getAttribute("aria-sort") + ": " + order);
}
function click(column) { heads[column].querySelector("button").click(); state(column); }
click(1); click(1); click(0); click(3);
log.push(heads.filter(head => head.getAttribute("aria-sort") !== "none").length);
heads[1].querySelector("button").focus();
log.push(document.activeElement === heads[1].querySelector("button") && document.activeElement.tabIndex >= 0);
document.querySelectorAll("details").forEach(details => { details.open = true; });
log.push(document.documentElement.scrollWidth <= innerWidth);
document.querySelectorAll("details").forEach(details => { details.open = false; });
location.hash = "#row-1";
setTimeout(() => {
  log.push(document.getElementById("row-1").open);
  document.body.textContent = "LOG" + log.join("|") + "LOG";
}, 100);
</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_the_table_sorts_in_a_browser_and_the_page_does_not_scroll_sideways(page, folder):
    probe = folder / "probe.html"
    probe.write_text(page.replace("</body>", SCRIPT), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--virtual-time-budget=2000"]
    options += [f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run(["chromium", *options, probe.as_uri()], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("LOG") == 2, done.stderr
    assert entities.unescape(done.stdout.split("LOG")[1]).split("|") == [
        "descending: full shift head tiny",
        "ascending: head shift full tiny",
        "ascending: full head shift tiny",
        "ascending: full shift head tiny",
        "1",
        "true",
        "true",
        "true",
    ]


def test_figures_scale_with_the_page_and_know_their_widths(page):
    rules = dict(re.findall(r"^(figure[^{]*?) \{(.*)\}$", page, flags=re.M))
    assert "width: 100%; height: auto" in rules["figure svg"]
    assert not any("overflow" in rule or re.search(r"(?<!max-)(?<!min-)width: [^1]", rule) for rule in rules.values())
    assert "min-width: 0" in rules["figure"]
    figures = re.findall(r'<figure style="--points: (\d+)">.*?<svg viewBox="0 0 ([\d.]+) ', page)
    assert len(figures) == page.count("<figure ")
    assert all(int(points) == round(float(width)) for points, width in figures)
