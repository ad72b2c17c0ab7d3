"""Parallel files of text and CoNLL-U as tables; what is wrong with one is said with its file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from lepton.data import read_table, source_exists
from lepton.errors import DataError

pytest.importorskip("pyarrow")


def write(folder: Path, name: str, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


# -- one text in several languages ----------------------------------------------------------------------------------
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_prefix_gives_a_column_for_each_language(packed: str, tmp_path: Path) -> None:
    write(tmp_path, f"train.en{packed}", "A dog .\n\nTwo cats\n")
    write(tmp_path, f"train.de{packed}", "Ein Hund .\r\n?\r\nZwei Katzen")
    for other in ("train.csv", "train.log", "val.en", "training.en", "train.en.bak"):
        write(tmp_path, other, "no\n")
    assert read_table(tmp_path / "train").to_pydict() == {
        "de": ["Ein Hund .", "?", "Zwei Katzen"],
        "en": ["A dog .", "", "Two cats"],
    }


def test_only_the_end_of_a_line_cuts_and_spaces_stay(tmp_path: Path) -> None:
    lines = ["a\u2028b", " c\x0bd ", "e\x85f\x1cg", "\ufefflater"]
    write(tmp_path, "x.text", b"\xef\xbb\xbf" + "\n".join(lines).encode())
    assert read_table(tmp_path / "x").to_pydict() == {"text": lines}


def test_names_with_dots_and_regions(tmp_path: Path) -> None:
    for name in ("test.2016.pt_BR", "test.2016.zh-Hans.gz"):
        write(tmp_path, name, "x\n")
    assert read_table(tmp_path / "test.2016").column_names == ["pt_BR", "zh-Hans"]


def test_a_source_exists_if_it_can_be_read(tmp_path: Path) -> None:
    for name in ("train.en.gz", "train.de.gz", "houses.csv"):
        write(tmp_path, name, "x\n")
    there = ["train", "houses.csv", "."]
    assert [source_exists(tmp_path / name) for name in [*there, "trai", "houses", "no/train"]] == [True] * 3 + [
        False
    ] * 3


def test_files_of_different_lengths(tmp_path: Path) -> None:
    write(tmp_path, "train.de", "a\nb\nc\n")
    write(tmp_path, "train.en.gz", "a\nb\n")
    with pytest.raises(DataError, match=r"train\.de' has 3 lines, but .*train\.en\.gz' has 2"):
        read_table(tmp_path / "train")


def test_a_wrong_encoding_is_found_in_its_line(tmp_path: Path) -> None:
    write(tmp_path, "train.en", "a\nb\nc\n")
    write(tmp_path, "train.de.gz", "gut\nschön\nklar\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"train\.de\.gz', line 2, is no UTF-8 text.*Save it as UTF-8"):
        read_table(tmp_path / "train")
    write(tmp_path, "train.de.gz", "gut\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"train\.de\.gz' holds zero bytes.*UTF-8"):
        read_table(tmp_path / "train")


def test_a_language_that_is_not_there_and_a_prefix_that_is_not(tmp_path: Path) -> None:
    for name in ("train.en.gz", "train.de.gz", "val.en", "val.de", "notes.md"):
        write(tmp_path, name, "x\n")
    with pytest.raises(DataError, match=r"no file '.*trian'\. Did you mean 'train'\?.*train', '.*val'"):
        read_table(tmp_path / "trian")
    with pytest.raises(DataError, match=r"no pictures.*begin with: \['.*train', '.*val'\]"):
        read_table(tmp_path)
    with pytest.raises(DataError, match=r"train\.en\.gz' cannot be read.*begin with: \['.*train'"):
        read_table(tmp_path / "train.en.gz")


def test_a_table_with_the_same_name_is_offered_and_not_read_as_text(tmp_path: Path) -> None:
    write(tmp_path, "houses.csv", "a\n1\n")
    with pytest.raises(DataError, match=r"no file '.*houses'\. Did you mean 'houses.csv'"):
        read_table(tmp_path / "houses")


def test_a_language_twice_an_empty_file_and_one_that_is_not_packed(tmp_path: Path) -> None:
    write(tmp_path, "train.en", "x\n")
    write(tmp_path, "train.en.gz", "x\n")
    with pytest.raises(DataError, match=r"train\.en' and .*train\.en\.gz' are both the text 'en'"):
        read_table(tmp_path / "train")
    write(tmp_path, "val.en", "")
    with pytest.raises(DataError, match=r"val\.en' is empty"):
        read_table(tmp_path / "val")
    (tmp_path / "test.en.gz").write_text("plain")
    with pytest.raises(DataError, match=r"test\.en\.gz' cannot be read"):
        read_table(tmp_path / "test")
    (tmp_path / "half.en.gz").write_bytes(gzip.compress(b"a line\n" * 1000)[:-12])
    with pytest.raises(DataError, match=r"half\.en\.gz' cannot be read"):
        read_table(tmp_path / "half")


def test_half_a_character_in_memory() -> None:
    with pytest.raises(DataError, match="column 'en' holds half a character"):
        read_table({"en": ["whole", "\ud83d"]})


# -- CoNLL-U ----------------------------------------------------------------------------------------------------------
WORD = "{}\t{}\tlemma\tNOUN\tNN\tNumber=Sing\t0\troot\t_\t_\n"
SENTENCES = (
    "# sent_id = 1\n# text = He didn't .\n"
    "1\tHe\the\tPRON\tPRP\tCase=Nom\t2\tnsubj\t_\t_\n"
    "2-3\tdidn't\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "2\tdid\tdo\tAUX\tVBD\tTense=Past\t0\troot\t_\tSpaceAfter=No\n"
    "3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t_\t_\n"
    "3.1\tdo\tdo\tVERB\tVB\t_\t_\t_\t_\t_\n"
    "4\t.\t.\tPUNCT\t.\t_\t2\tpunct\t_\t_\n"
    "\n\n1\tYes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_"
)


@pytest.mark.parametrize("name", ["a.conllu", "a.conllu.gz"])
def test_a_sentence_is_a_row_of_lists(name: str, tmp_path: Path) -> None:
    assert read_table(write(tmp_path, name, SENTENCES.replace("\n", "\r\n"))).to_pydict() == {
        "text": ["He didn't .", "Yes"],
        "words": [["He", "did", "n't", "."], ["Yes"]],
        "lemmas": [["he", "do", "not", "."], ["yes"]],
        "upos": [["PRON", "AUX", "PART", "PUNCT"], ["INTJ"]],
        "xpos": [["PRP", "VBD", "RB", "."], ["UH"]],
        "feats": [["Case=Nom", "Tense=Past", "_", "_"], ["_"]],
        "heads": [["2", "0", "2", "2"], ["0"]],
        "relations": [["nsubj", "root", "advmod", "punct"], ["root"]],
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1\ta\n", "line 1, has 2 columns"),
        ("# text = a b\n" + WORD.format(1, "a") + "2 b b NOUN NN _ 1 x _ _\n", "line 3, has 1 columns"),
        (WORD.format(1, "a") + WORD.format(3, "b"), "line 2, has the ID '3' where 2 is expected"),
        (WORD.format(1, "a") + WORD.format(1, "b"), "line 2, has the ID '1' where 2 is expected"),
        (WORD.format("x", "a"), "line 1, has the ID 'x' where 1 is expected"),
        ("# text = nothing\n\n", "holds no sentence"),
        (WORD.format(1, "schön").encode("latin-1"), "line 1, is no UTF-8 text"),
        (b"", "is empty"),
    ],
)
def test_malformed_sentences(content: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"a\.conllu'?.*{words}") as caught:
        read_table(write(tmp_path, "a.conllu", content))
    if "has" in words:
        assert "ten columns ID FORM LEMMA" in str(caught.value)


def test_a_treebank_has_a_tag_for_each_of_its_words(data_folder: Path) -> None:
    """Counted by grep on the file: 2077 comments `sent_id`, 25 094 lines that begin with a whole number."""
    table = read_table(data_folder / "ud_ewt" / "en_ewt-ud-test.conllu.gz")
    words, tags = (table.column(name).to_pylist() for name in ("words", "upos"))
    assert (table.num_rows, sum(map(len, words))) == (2077, 25094)
    assert [len(row) for row in words] == [len(row) for row in tags]
    assert len({tag for row in tags for tag in row}) == 17
    assert table.column("text")[0].as_py().startswith("What if Google")


def test_parallel_captions(data_folder: Path) -> None:
    table = read_table(data_folder / "multi30k" / "val")
    assert (table.num_rows, table.column_names) == (1014, ["de", "en"])
    assert table.column("en")[1].as_py() == "A man sleeping in a green room on a couch."
