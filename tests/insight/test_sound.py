"""A recording on a page: what is heard is the recording, and what is drawn stands where it happens."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from lepton.errors import ConfigurationError, DataError
from lepton.insight import Grid, Section, SpeechExample, plot_speech, png_of, wav_of, write_report
from lepton.insight.page._colour_map import colour_map, spectrogram_png
from lepton.insight.page._sound import FLOOR, envelope, frequency_ticks, levels_of
from lepton.insight.page._sound_svg import LEFT, NARROW, RIGHT, sound_svg
from tests.insight.test_report import EVIL, Page

RATE, HOP, WINDOW = 8000, 64, 256
RANDOM = np.random.default_rng(0)


def log_magnitudes(sound: NDArray[Any]) -> NDArray[np.float64]:
    """Frames around the samples m * HOP, as the models' front end has them, of plain frequencies instead of bands."""
    count = -(-len(sound) // HOP)
    padded = np.pad(sound, (WINDOW // 2, WINDOW // 2 + HOP))
    frames = np.stack([padded[m * HOP : m * HOP + WINDOW] for m in range(count)]) * np.hanning(WINDOW + 1)[:-1]
    found: NDArray[np.float64] = np.log(np.maximum(np.abs(np.fft.rfft(frames)), 1e-5))
    return found


def speech(seconds: float = 0.5, text: str = "one", **more: Any) -> SpeechExample:
    sound = 0.1 * RANDOM.standard_normal(round(seconds * RATE))
    borders = np.linspace(0, seconds, len(text) + 1).tolist()
    characters = list(zip(text, borders, borders[1:], strict=False))
    told: dict[str, Any] = {
        "title": "a recording", "waveform": sound, "sample_rate": RATE, "log_mel": log_magnitudes(sound), "said": text,
        "truth": text, "characters": characters, "facts": {"speaker": "jackson"},
        "hop": HOP, "frequencies": np.linspace(0, RATE / 2, WINDOW // 2 + 1).tolist(),
    }  # fmt: skip
    return SpeechExample(**{**told, **more})


def page_of(tmp_path: Path, *blocks: Any) -> str:
    return write_report(tmp_path / "r.html", "t", [Section("h", blocks)]).read_text(encoding="utf-8")


def across(seconds: float, end: float, width: int = NARROW) -> float:
    return LEFT + seconds / end * (width - RIGHT - LEFT)


# -- sound ---------------------------------------------------------------------------------------------------------
def test_what_is_heard_is_the_recording(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    example = speech()
    (address,) = (a["src"] for a in Page(page_of(tmp_path, example)).all("audio"))
    file = base64.b64decode(str(address).removeprefix("data:audio/wav;base64,"))
    heard, rate = soundfile.read(io.BytesIO(file))
    assert rate == RATE and len(file) == 44 + 2 * len(example.samples)
    np.testing.assert_allclose(heard, example.samples, atol=1 / 32000)


def test_a_sound_that_is_too_loud_is_cut_and_does_not_wrap() -> None:
    samples = np.frombuffer(wav_of([2.0, -2.0, 0.0], RATE)[44:], "<i2")
    np.testing.assert_array_equal(samples, [32767, -32767, 0])


# -- colours -------------------------------------------------------------------------------------------------------
def oklab(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Oklab from the screen's colours, by the matrices that lead that way (Ottosson, 2020)."""
    screen = colours / 255
    linear = np.where(screen <= 0.04045, screen / 12.92, ((screen + 0.055) / 1.055) ** 2.4)
    first = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    first += [[0.0883024619, 0.2817188376, 0.6299787005]]
    second = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099]]
    second += [[0.0259040371, 0.7827717662, -0.8086757660]]
    found: NDArray[np.float64] = np.cbrt(linear @ np.array(first).T) @ np.array(second).T
    return found


@pytest.mark.parametrize(("steps", "apart"), [(16, 1.12), (64, 1.45)])  # a screen's colour is rounded to a 255th
def test_neighbouring_colours_are_equally_far_apart_and_ever_lighter(steps: int, apart: float) -> None:
    points = oklab(colour_map(steps))
    distances = np.linalg.norm(np.diff(points, axis=0), axis=1)
    assert distances.max() < apart * distances.min()
    assert (np.diff(points[:, 0]) > 0).all()
    luminance = colour_map(steps) @ [0.299, 0.587, 0.114]
    assert (np.diff(luminance) > 0).all()
    assert points[0, 0] < 0.25 and points[-1, 0] > 0.9


def test_a_spectrogram_has_time_to_the_right_and_low_bands_at_the_bottom() -> None:
    shares = np.zeros((3, 4))
    shares[2, 0] = 1.0
    picture = np.asarray(Image.open(io.BytesIO(spectrogram_png(shares))).convert("RGB"))
    assert picture.shape == (4, 3, 3)
    np.testing.assert_array_equal(picture[3, 2], colour_map()[-1])
    assert (picture.reshape(-1, 3) == colour_map()[0]).all(1).sum() == 11


def test_levels_are_decibels_below_the_loudest_place() -> None:
    magnitudes = np.array([[1.0, 0.1], [0.01, 1e-9]])
    np.testing.assert_allclose(levels_of(np.log(magnitudes)), [[0, -20], [-40, FLOOR]])
    np.testing.assert_array_equal(levels_of(np.log(np.full((2, 2), 1e-5))), np.full((2, 2), FLOOR))  # silence is dark


# -- drawing -------------------------------------------------------------------------------------------------------
def drawn_click(example: SpeechExample) -> tuple[float, float]:
    """Where the highest sample and the loudest frame are drawn."""
    svg = sound_svg(example)
    (path,) = re.findall(r'class="wave" d="M(.*?)Z"', svg)
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    wave = min(points, key=lambda point: point[1])[0]
    (image,) = re.findall(r"<image (.*?)/>", svg)
    told = dict(re.findall(r'([\w-]+)="(.*?)"', image))
    png = base64.b64decode(told["href"].removeprefix("data:image/png;base64,"))
    levels = np.asarray(Image.open(io.BytesIO(png))).astype(np.float64).sum(0)
    loudest = np.flatnonzero(levels == levels.max()).mean() + 0.5
    return wave, float(told["x"]) + loudest / len(levels) * float(told["width"])


@pytest.mark.parametrize("sample", [5 * HOP, 20 * HOP, 61 * HOP])
@pytest.mark.parametrize("until", [None, 1.0])
def test_wave_and_spectrogram_stand_above_each_other(sample: int, until: float | None) -> None:
    sound = np.zeros(4000)
    sound[sample] = 1.0
    wave, bands = drawn_click(speech(waveform=sound, log_mel=log_magnitudes(sound), until=until))
    where = across(sample / RATE, until or 0.5)
    assert wave == pytest.approx(where, abs=1.6)  # a column of the wave is 1.5 wide
    assert bands == pytest.approx(where, abs=0.1)


def test_characters_stand_where_they_are_spoken() -> None:
    example = speech(0.5, "ab", characters=[("a", 0.1, 0.2), (" ", 0.2, 0.4)])
    svg = sound_svg(example)
    boxes = re.findall(r'<rect class="(?:even|odd)" x="(.*?)" y=".*?" width="(.*?)"', svg)
    assert [(float(x), float(width)) for x, width in boxes] == [
        (pytest.approx(across(a, 0.5), abs=0.1), pytest.approx(across(b, 0.5) - across(a, 0.5), abs=0.1))
        for a, b in ((0.1, 0.2), (0.2, 0.4))
    ]
    assert re.findall(r'class="name".*?>(.)<', svg) == ["a", "␣"]
    assert "a 0.10 to 0.20 s, ␣ 0.20 to 0.40 s" in svg


def test_a_character_without_room_is_not_written_over_its_neighbours() -> None:
    svg = sound_svg(speech(2.0, "x" * 24, characters=[("x", i * 0.01, (i + 1) * 0.01) for i in range(24)]))
    assert 'class="name"' not in svg and svg.count("<rect class=") == 24


@given(st.integers(1, 400), st.integers(1, 300))
def test_the_wave_loses_no_peak(n: int, columns: int) -> None:
    samples = np.random.default_rng(n).standard_normal(n)
    low, high = envelope(samples, columns)
    assert len(low) == len(high) == min(n, columns)
    assert low.min() == samples.min() and high.max() == samples.max()
    assert (low <= high).all()


def test_frequencies_stand_at_the_bands_whose_centres_they_are() -> None:
    centres = 700 * (10 ** (np.linspace(30, 2800, 64) / 2595) - 1)
    ticks = frequency_ticks(centres.tolist())
    assert 3 <= len(ticks) <= 7
    for place, word in ticks:
        below = int(place)
        assert centres[below] <= float(word) <= centres[min(below + 1, 63)]
    places = [place for place, _ in ticks]
    assert np.diff(places).min() > 9


# -- page ----------------------------------------------------------------------------------------------------------
def test_the_page_allows_its_own_sound_and_script_only(tmp_path: Path) -> None:
    text = page_of(tmp_path, Grid((speech(), speech())))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and "media-src data:" in policy
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_a_page_without_sound_allows_none(tmp_path: Path) -> None:
    assert "media-src" not in page_of(tmp_path, "words about <audio> and figure class=sound")


def test_a_sound_has_a_name_and_its_drawing_words(tmp_path: Path) -> None:
    page = Page(page_of(tmp_path, speech(), speech(3.0)))
    assert [a["aria-label"] for a in page.all("audio")] == ["Sound: a recording"] * 2
    assert all("controls" in a for a in page.all("audio"))
    drawings = [a for a in page.all("svg") if a.get("role") == "img"]
    assert ["0.50 s" in str(a["aria-label"]) for a in drawings] == [True, False]
    scrolling = [a for a in page.all("div") if "drawing" in str(a.get("class")) and "tabindex" in a]
    assert len(scrolling) == 1  # the wide one


@pytest.mark.parametrize(
    ("said", "truth", "found"),
    [
        ("one", "one", ["found one ✓ right"]),
        ("tree", "three", ["found tree", "true t[h]ree"]),
        ("fife", "five", ["found fi[f]e", "true fi[v]e"]),
        ("", "six", ["found (nothing)", "true [s][i][x]"]),
        ("six", "", ["text six"]),
    ],
)
def test_what_differs_from_the_truth_is_marked(tmp_path: Path, said: str, truth: str, found: list[str]) -> None:
    text = page_of(tmp_path, speech(said=said, truth=truth))
    lines = re.findall(r'<p class="transcript.*?">(.*?)</p>', text)
    marked = [line.replace("<mark>", "[").replace("</mark>", "]") for line in lines]
    assert [re.sub(r"<.*?>", "", line) for line in marked] == found


def test_what_users_wrote_stays_text(tmp_path: Path) -> None:
    evil = speech(title=EVIL, said=EVIL, truth="x", characters=[(EVIL, 0.0, 0.5)], facts={EVIL: EVIL})
    text = page_of(tmp_path, evil, speech(4.0, title=EVIL))
    page = Page(text)
    assert len(page.all("script")) == 1 and not page.all("img")
    assert any(a["aria-label"] == f"Sound: {EVIL}" for a in page.all("audio"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"waveform": [0.0, float("nan")]}, "waveform holds a number that is not finite"),
        ({"waveform": []}, r"waveform must have 1 dimension and hold something.*\(0,\)"),
        ({"waveform": np.zeros((2, 4))}, r"waveform must have 1 dimension"),
        ({"log_mel": np.zeros((0, 4))}, r"log_mel must have 2 dimensions"),
        ({"frequencies": [1.0, 2.0]}, "there are 2 frequencies for 129 mel bands"),
        ({"characters": [("a", 0.3, 0.2)]}, "character 'a' reaches from 0.3 to 0.2 s"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(more: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=f"SpeechExample 'a recording': {words}"):
        speech(**more)


def test_a_rate_of_zero_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="sample_rate"):
        speech(sample_rate=0)


# -- figure --------------------------------------------------------------------------------------------------------
def test_the_figure_has_one_axis_of_time() -> None:
    pytest.importorskip("matplotlib")
    example = speech(0.5, "two")
    figure = plot_speech(example)
    wave, bands, strip = figure.axes[:3]
    assert wave.get_xlim() == bands.get_xlim() == strip.get_xlim() == (0.0, 0.5)
    left, right, bottom, top = bands.get_images()[0].get_extent()
    columns = bands.get_images()[0].get_array().shape[1]
    centres = left + (np.arange(columns) + 0.5) * (right - left) / columns
    np.testing.assert_allclose(centres, np.arange(columns) * HOP / RATE)
    assert (bottom, top) == (-0.5, 128.5)
    figure.draw_without_rendering()
    boxes = [panel.get_window_extent() for panel in (wave, bands, strip)]
    assert len({(round(box.x0), round(box.x1)) for box in boxes}) == 1
    assert Image.open(io.BytesIO(png_of(figure, dpi=50))).size[0] == 450


def test_the_figure_says_what_was_found_and_what_is_true() -> None:
    pytest.importorskip("matplotlib")
    title = plot_speech(speech(said="tree", truth="three", log_mel=None, characters=())).axes[0].get_title(loc="left")
    assert title == "a recording: tree  (true: three)"


# -- real recordings -----------------------------------------------------------------------------------------------
def test_twelve_spoken_digits_make_a_small_page(tmp_path: Path, data_folder: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    files = sorted((data_folder / "fsdd" / "recordings").glob("*_0.wav"))[:12]
    if not files:
        pytest.skip("the Free Spoken Digit Dataset is not here")
    examples = []
    for file in files:
        sound, rate = soundfile.read(file)
        examples.append(speech(waveform=sound, sample_rate=rate, log_mel=log_magnitudes(sound), characters=()))
    size = len(page_of(tmp_path, Grid(tuple(examples))).encode())
    sound_bytes = sum(4 / 3 * (44 + 2 * len(example.samples)) for example in examples)
    assert size < sound_bytes + 12 * 20_000 + 30_000
