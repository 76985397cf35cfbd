"""labels.py: ImageNet's classes, and own lists that must be exactly right."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.labels import Label, LabelsError, LabelSet, imagenet_labels, read_labels


def test_imagenet_labels_are_the_thousand_in_order():
    """There are 1000 ImageNet classes in ascending wnid, with the well-known ones at their well-known places."""
    labels = imagenet_labels().labels
    assert len(labels) == 1000
    assert [label.wnid for label in labels] == sorted({label.wnid for label in labels})
    assert labels[0] == Label(0, "n01440764", "tench, Tinca tinca")
    assert labels[281].name.startswith("tabby")
    assert labels[999].name.startswith("toilet tissue")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("flowers.txt", "rose\ntulip, yellow\n", [(None, "rose"), (None, "tulip, yellow")]),
        ("flowers.txt", "n1\trose\r\nn2\trose", [("n1", "rose"), ("n2", "rose")]),
        ("flowers.txt", "\ufeffrose\ntulip", [(None, "rose"), (None, "tulip")]),
        ("flowers.json", '["rose", "tulip"]', [(None, "rose"), (None, "tulip")]),
        ("flowers.json", '[{"name": "rose", "wnid": "n1"}, {"name": "tulip"}]', [("n1", "rose"), (None, "tulip")]),
        ("flowers.json", '[{"name": "rose", "wnid": null}, "tulip"]', [(None, "rose"), (None, "tulip")]),
    ],
)
def test_own_labels_are_read(tmp_path, name, content, expected):
    """An own list is read from lines or JSON, with or without wnids, in the order of the classes."""
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    read = read_labels(path, class_count=2)
    assert [(label.wnid, label.name) for label in read.labels] == expected
    assert [label.index for label in read.labels] == [0, 1]
    assert read.source == name


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("l.txt", "rose\n", "1 labels and the network 2 classes"),
        ("l.txt", "rose\ntulip\nlily\n", "3 labels and the network 2 classes"),
        ("l.txt", "rose\n\n", "1 labels"),
        ("l.txt", "rose\n  \n", "label 1 is blank"),
        ("l.txt", "\nrose\n", "label 0 is blank"),
        ("l.txt", "n1\t\nn2\trose", "label 0 is blank"),
        ("l.txt", "\trose\nn2\ttulip", "label 0 is blank"),
        ("l.txt", "rose\nrose\n", "labels 0 and 1 are both 'rose'"),
        ("l.txt", "n1\trose\nn1\ttulip\n", "wnid n1 names two classes"),
        ("l.json", '{"0": "rose", "1": "tulip"}', "JSON list"),
        ("l.json", '["rose", 2]', "entry 1"),
        ("l.json", '["rose", {"name": "tulip", "colour": "red"}]', "entry 1"),
        ("l.json", '["rose", {"wnid": "n1"}]', "entry 1"),
        ("l.json", '["rose", ', "not JSON"),
        ("l.json", "[" * 100_000, "not JSON"),
    ],
)
def test_wrong_lists_are_refused_by_entry(tmp_path, name, content, complaint):
    """A wrong count, a blank, a repetition or another form is refused, and the message says which entry."""
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LabelsError, match=complaint):
        read_labels(path, class_count=2)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_unreadable_files_are_refused_by_name(tmp_path, content):
    """A missing file and one that is not UTF-8 are LabelsErrors that name the file."""
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelsError, match=r"labels\.txt"):
        read_labels(path, class_count=2)


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=8, unique=True))
def test_json_round_trip(names):
    """What to_json writes, from_json reads, for any names."""
    labels = LabelSet("own", tuple(Label(index, None, name) for index, name in enumerate(names)))
    assert LabelSet.from_json(labels.to_json()) == labels


def test_stored_labels_out_of_order_are_refused():
    """A stored list whose indices do not count up is refused: positions decide what an answer is called."""
    raw = json.loads(LabelSet("own", (Label(0, None, "a"), Label(1, None, "b"))).to_json())
    raw["labels"].reverse()
    with pytest.raises(LabelsError, match="index 1"):
        LabelSet.from_json(json.dumps(raw))
