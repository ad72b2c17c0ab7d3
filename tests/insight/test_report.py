"""The page is whole, safe, self-contained and accessible; the figures show the data that they were given."""

from __future__ import annotations

import dataclasses
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lepton.errors import ConfigurationError, DataError, MissingExtraError, install_line
from lepton.insight import (
    Caption,
    Chart,
    Comparison,
    MaskPanel,
    Picture,
    Points,
    RunResult,
    Section,
    Table,
    TableCell,
    TableRow,
    comparison_sections,
    conflict_matrix,
    history_series,
    plot_comparison,
    plot_conflict,
    plot_curves,
    plot_scenes,
    plot_weights,
    png_of,
    write_report,
)
from lepton.insight.page._style import THEME
from tests.insight.conftest import METRICS, SHIFT, make_results

pytest.importorskip("matplotlib")
EVIL = "<script>alert('x')</script>\"><img src=x onerror=y>&"
VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Collects tags with their attributes, and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def demo_page(comparison: Comparison, results, baselines, tmp_path_factory) -> str:
    sections = comparison_sections(comparison, results, baselines, reference="equal weighting")
    path = write_report(tmp_path_factory.mktemp("report") / "deep" / "report.html", "Demo", sections)
    return path.read_text(encoding="utf-8")


def written(tmp_path: Path, *blocks, title: str = "t", heading: str = "h") -> str:
    return write_report(tmp_path / "r.html", title, [Section(heading, blocks)]).read_text(encoding="utf-8")


# -- page ----------------------------------------------------------------------------------------------------------
def test_the_page_is_well_formed_and_small(demo_page: str) -> None:
    page = Page(demo_page)
    assert len(demo_page.encode()) < 3_000_000
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_page_asks_nobody_for_anything(demo_page: str) -> None:
    page = Page(demo_page)
    assert not re.search(r"https?://|//[a-z]+\.", demo_page)
    assert not page.all("script") and not page.all("link") and "@import" not in demo_page
    targets = [a.get(key) for _, a in page.tags for key in ("src", "href", "xlink:href") if key in a]
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert all(url.startswith("#") for url in re.findall(r"url\((.*?)\)", demo_page))
    (policy,) = (m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_references_within_the_page_have_their_targets(demo_page: str) -> None:
    page = Page(demo_page)
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    used = set(re.findall(r"url\(#(.*?)\)", demo_page))
    used |= {a[key][1:] for _, a in page.tags for key in ("href", "xlink:href") if a.get(key, "").startswith("#")}
    assert used <= ids


def test_the_page_is_accessible(demo_page: str) -> None:
    page = Page(demo_page)
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1 and len(page.all("h2")) == 5
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert {th["scope"] for th in page.all("th")} == {"col", "row"}
    assert len(page.all("caption")) == len(page.all("table")) == 1
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in page.all("div") if box.get("class") == "scroll")


def test_no_colour_of_a_figure_stays_behind_when_the_scheme_changes(demo_page: str) -> None:
    body = demo_page[demo_page.index("<body>") :]
    assert not [colour.light for colour in THEME.values() if colour.light in body]
    assert "prefers-color-scheme: dark" in demo_page


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_paper(scheme: str) -> None:
    paper = getattr(THEME["paper"], scheme)
    ratios = {name: contrast(getattr(colour, scheme), paper) for name, colour in THEME.items()}
    assert min(ratios[name] for name in ("ink", "muted", "better", "worse")) >= 4.5  # WCAG AA, text
    assert min(ratio for name, ratio in ratios.items() if name.startswith("series")) >= 2.5


def test_what_users_wrote_is_escaped(tmp_path: Path, comparison: Comparison) -> None:
    figure = plot_comparison(comparison)
    row = TableRow(TableCell(EVIL, EVIL), (TableCell(EVIL, EVIL, "worse"),))
    blocks = (EVIL, Points((EVIL,)), Table(EVIL, (EVIL,), (row,), (EVIL,)), Chart(figure, EVIL, EVIL))
    page = Page(written(tmp_path, *blocks, Picture(png_of(figure, dpi=20), EVIL, EVIL), title=EVIL, heading=EVIL))
    assert not page.all("script")
    assert len(page.all("img")) == 1 and "onerror" not in page.all("img")[0]
    assert page.all("img")[0]["alt"] == EVIL


def test_names_of_tasks_and_methods_are_escaped_inside_figures(tmp_path: Path, results, baselines) -> None:
    def renamed(run: RunResult) -> RunResult:
        tasks = {EVIL if task == "left" else task: score for task, score in run.tasks.items()}
        return dataclasses.replace(run, tasks=tasks, method=EVIL if run.method == "UPGrad" else run.method)

    metrics = {EVIL if task == "left" else task: those for task, those in METRICS.items()}
    comparison = Comparison.of(map(renamed, results), map(renamed, baselines), metrics)
    page = Page(written(tmp_path, Chart(plot_comparison(comparison), "a", "c")))
    assert not page.all("script") and not page.all("img")


def test_a_failed_report_leaves_the_old_one(tmp_path: Path) -> None:
    before = written(tmp_path, "first")
    with pytest.raises(DataError, match="PNG"):
        written(tmp_path, Picture(b"GIF89a", "a", "c"))
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_an_interrupted_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(tmp_path, "first")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, "second")
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == before
    assert len(list(tmp_path.iterdir())) == 1


def test_conflict_comes_with_its_warning(demo_page: str) -> None:
    assert demo_page.count("Conflict does not predict generalisation") == 2  # beside the figure, and in it


def test_what_was_not_logged_has_no_section(comparison: Comparison, results) -> None:
    silent = [dataclasses.replace(run, history=[]) for run in results]
    assert [section.heading for section in comparison_sections(comparison, silent)][1:] == [
        "Each task, alone and shared",
        "Scores and costs",
    ]


# -- data behind the figures ---------------------------------------------------------------------------------------
def test_series_average_over_seeds_and_pass_over_what_is_not_finite() -> None:
    rows = [[{"step": 0, "k": 1.0}, {"step": 1, "k": float("nan")}, {"step": 2, "k": 3.0}],
            [{"step": 0, "k": 3.0}, {"step": 1}, {"step": 2, "k": 5.0}]]  # fmt: skip
    runs = [RunResult("m", seed, {}, history, 0.1, 1.0, {}) for seed, history in enumerate(rows)]
    series = history_series(runs, "k")["m"]
    assert (series.x.tolist(), series.mean.tolist()) == ([0, 2], [2, 4])
    assert (series.low.tolist(), series.high.tolist()) == ([1, 3], [3, 5])


def test_long_histories_keep_their_mean() -> None:
    history = [{"step": step, "k": float(step)} for step in range(1200)]
    series = history_series([RunResult("m", 0, {}, history, 0.1, 1.0, {})], "k", points=100)["m"]
    assert len(series.x) == 100
    assert series.mean.mean() == pytest.approx(599.5)
    np.testing.assert_allclose(series.mean, series.x)


def test_the_conflict_matrix_is_symmetric_and_says_what_it_does_not_know() -> None:
    history = [{"step": 0, "conflict/b/a": 0.2}, {"step": 1, "conflict/b/a": 0.4}]
    matrix = conflict_matrix([RunResult("m", 0, {}, history, 0.1, 1.0, {})], ["a", "b", "c"])
    np.testing.assert_allclose(matrix, matrix.T)
    assert matrix[0, 1] == pytest.approx(0.3)
    assert np.isnan(matrix[0, 2])


# -- figures -------------------------------------------------------------------------------------------------------
def texts(figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_the_comparison_figure_shows_every_task_method_and_loss(comparison: Comparison) -> None:
    shown = texts(plot_comparison(comparison))
    assert all(name in shown for name in (*METRICS, *SHIFT))
    for cell in comparison.cells:
        if cell.verdict == "worse" and cell.metric is METRICS[cell.task][0]:
            assert f"{cell.difference.mean:+.3f}".replace("-", "−") in shown


def test_better_is_right_in_every_panel(comparison: Comparison) -> None:
    axes = {axes.get_title(loc="left"): axes for axes in plot_comparison(comparison).axes}
    assert not axes["left"].xaxis_inverted()
    assert axes["sum"].xaxis_inverted()


@pytest.mark.parametrize("seeds", [1, 2])
def test_figures_can_be_drawn_of_few_seeds(seeds: int, baselines) -> None:
    comparison = Comparison.of(make_results(seeds), baselines, METRICS)
    assert png_of(plot_comparison(comparison), dpi=40).startswith(b"\x89PNG")


def test_figures_of_histories_can_be_drawn(results) -> None:
    tasks = list(METRICS)
    one = [run for run in results if run.method == "UPGrad"]
    for figure in (
        plot_curves(results, [f"train/{task}/loss" for task in tasks]),
        plot_weights(results, tasks),
        plot_conflict(one, tasks),
    ):
        assert png_of(figure, dpi=40).startswith(b"\x89PNG")
    assert "Conflict does not predict generalisation" in texts(plot_conflict(one, tasks))


def test_figures_without_data_say_what_is_missing(results) -> None:
    with pytest.raises(ConfigurationError, match="logged any of"):
        plot_curves(results, ["train/nope/loss"])
    with pytest.raises(ConfigurationError, match="train/<task>/weight"):
        plot_weights(results, ["nope"])
    with pytest.raises(ConfigurationError, match="one method"):
        plot_conflict(results, list(METRICS))
    with pytest.raises(ConfigurationError, match="any two of"):
        plot_conflict(results[:1], ["left", "nope"])


def test_scenes_show_truth_and_prediction_and_mark_what_is_wrong() -> None:
    masks = np.zeros((2, 6, 8), dtype=int)
    captions = [[Caption("left", "3", "3", True)], [Caption("left", "3", "8", False)]]
    panels = [MaskPanel("true", masks), MaskPanel("predicted", masks + 1)]
    shown = texts(plot_scenes(np.zeros((2, 6, 8)), panels, captions, classes=["left digit"]))
    assert "left 3 → 3" in shown and "left 3 → 8  ✗" in shown
    assert all(word in shown for word in ("input", "true", "predicted", "left digit"))


def test_scenes_of_unequal_number_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"masks of 'true'.* 2 and 1"):
        plot_scenes(np.zeros((2, 6, 8)), [MaskPanel("true", np.zeros((1, 6, 8), dtype=int))])
    with pytest.raises(ConfigurationError, match="captions"):
        plot_scenes(np.zeros((2, 6, 8)), captions=[[]])


def test_a_diverged_run_does_not_spoil_the_figure(results, baselines) -> None:
    scores = {
        task: dataclasses.replace(s, metrics=dict.fromkeys(s.metrics, np.nan)) for task, s in results[0].tasks.items()
    }
    runs = [dataclasses.replace(results[0], tasks=scores), *results[1:]]
    assert png_of(plot_comparison(Comparison.of(runs, baselines, METRICS)), dpi=40).startswith(b"\x89PNG")


def test_without_matplotlib_the_message_says_what_to_install(comparison: Comparison, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=re.escape(install_line("demo"))):
        plot_comparison(comparison)
