"""Tasks inferred from the first labelled events, and values as classes: what fits, what does not, and what is kept."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.arrivals import ValueColumn
from worker.core.events import PredictionValue
from worker.core.kernels.arrays import F64, I8, Bool
from worker.core.kernels.join import NO_LABEL
from worker.core.options import ModelPerformanceOptions
from worker.core.performance.task import Classes, Mode, Pairs, Task, TaskName, infer_task
from worker.core.performance.values import NAME_CHARS_MAX, Names, encode_probabilities, encode_values
from worker.core.scanning import BOOLEAN, NUMBER, TEXT

Values = Sequence[PredictionValue]
PLAIN = ModelPerformanceOptions("m")


def told(**options: object) -> ModelPerformanceOptions:
    """What is known of a model."""
    return msgspec.structs.replace(PLAIN, **options)


def encoded_values(values: Sequence[PredictionValue | None], texts: Names) -> tuple[F64, I8]:
    """Return values as decoders give them, encoded."""
    return encode_values(ValueColumn.of(values), texts)


class Known:
    """The texts and columns that a monitor keeps, and values as it has them."""

    def __init__(self, bound: int = 8) -> None:
        self.texts, self.columns = Names(bound), Names(bound)

    def pairs(self, labels: Values, predictions: Values) -> Pairs:
        """Labelled events."""
        return Pairs(*encoded_values(labels, self.texts), *encoded_values(predictions, self.texts))


def inferred(
    labels: Values,
    predictions: Values,
    columns: Sequence[str] = (),
    options: ModelPerformanceOptions = PLAIN,
) -> tuple[str, str]:
    """The name and mode of the task of labelled events."""
    known = Known()
    task = infer_task(known.pairs(labels, predictions), known.texts, Names(8, columns), options)
    return task.name, task.mode


TASKS: dict[str, tuple[Values, Values, Sequence[str], dict[str, object], tuple[str, str]]] = {
    "two texts": (["a", "b"], ["b", "b"], (), {}, ("binary", "text")),
    "three texts": (["a", "b"], ["c", "b"], (), {}, ("multiclass", "text")),
    "two texts of three declared": (["a", "b"], ["b", "b"], (), {"classes": ("a", "b", "c")}, ("multiclass", "text")),
    "texts and a score": (["a", "b"], [0.2, 0.7], (), {}, ("binary", "text_score")),
    "one text and a score": (["a", "a"], [0.2, 0.7], (), {}, ("binary", "text_score")),
    "three texts and numbers": (["a", "b", "c"], [1, 2, 3], (), {}, ("multiclass", "text")),
    "three texts and a score": (["a", "b", "n/a"], [0.1, 0.2, 0.3], (), {"task": "binary"}, ("binary", "text_score")),
    "texts and booleans": (["true", "False"], [True, False], (), {}, ("binary", "boolean")),
    "booleans": ([True, False], [False, False], (), {}, ("binary", "boolean")),
    "booleans and texts": ([True, False], ["true", "false"], (), {}, ("binary", "boolean")),
    "booleans and a score": ([True, False], [0.4, 0.9], (), {}, ("binary", "score")),
    "booleans and digits": ([True, False], [1, 0], (), {}, ("binary", "score")),
    "digits and booleans": ([1, 0], [True, False], (), {}, ("binary", "boolean")),
    "digits and texts": ([1, 0], ["1", "0"], (), {}, ("binary", "text")),
    "0 and 1": ([0, 1, 1], [0, 1, 0], (), {}, ("binary", "number")),
    "0 and 1 and a score": ([0, 1, 1], [0, 1, 0.5], (), {}, ("binary", "score")),
    "0 and 1 and a score beyond": ([0, 1, 1], [0, 1, 1.5], (), {}, ("regression", "value")),
    "0 and 1 with one stray text": ([0, 1, 1, "seven"], [0, 1, 0.5, 0.5], (), {}, ("binary", "score")),
    "0 and 1 with probabilities": ([0, 1], [0, 1], ("0", "1"), {}, ("binary", "number")),
    "0 and 1 with one probability": ([0, 1], [0.4, 1], ("1",), {}, ("binary", "score")),
    "a stray 2 with probabilities": ([0, 1, 2], [0, 1, 1], ("0", "1"), {}, ("binary", "number")),
    "1 and 2 with probabilities": ([1, 2], [1, 2], ("1", "2"), {}, ("multiclass", "number")),
    "digits with probabilities": ([0, 3, 7], [0, 3, 1], ("0", "1", "3", "7"), {}, ("multiclass", "number")),
    "numbers": ([1.5, 2.0], [1.0, 3.0], (), {}, ("regression", "value")),
    "texts, mostly": (["a", "b", 1.0], ["a", True, "b"], (), {}, ("binary", "text")),
    "regression of 0 and 1": ([0, 1], [0, 1], (), {"task": "regression"}, ("regression", "value")),
    "multiclass of numbers": ([1, 2], [1, 5], (), {"task": "multiclass"}, ("multiclass", "number")),
    "multiclass of two texts": (["a", "b"], ["a", "b"], (), {"task": "multiclass"}, ("multiclass", "text")),
    "binary of three texts": (["a", "b"], ["c", "b"], (), {"task": "binary"}, ("binary", "text")),
    "binary of 1 and 2": ([1, 2], [1, 2], (), {"task": "binary", "classes": ("1", "2")}, ("binary", "number")),
    "binary of scores": ([1, 1], [0.9, 0.7], (), {"task": "binary"}, ("binary", "score")),
}


@pytest.mark.parametrize("case", TASKS)
def test_tasks_are_inferred_as_documented(case: str) -> None:
    """Each sort of labels, predictions, probabilities and configuration has its task."""
    labels, predictions, columns, options, expected = TASKS[case]
    assert inferred(labels, predictions, columns, told(**options)) == expected


@pytest.mark.parametrize(
    ("labels", "predictions", "center", "unit"),
    [
        ([100.0, 104.0, 90.0], [100.0, 100.0, 100.0], 100.0, 64.0),
        ([5.0, 5.0], [5.0, 5.0], 5.0, 1.0),
        ([0.0, 0.0], [0.25, 0.0], 0.0, 2.0),
        ([1.7e308, -1.7e308], [-1.7e308, 0.0], 1.7e308, 2.0**901),
        ([5e-324, 0.0], [0.0, 0.0], 5e-324, 2.0**-900),
    ],
)
def test_scale_of_a_regression(labels: list[float], predictions: list[float], center: float, unit: float) -> None:
    """The centre is a label in the middle, the unit a power of two above the spread of labels and errors."""
    known = Known()
    task = infer_task(known.pairs(labels, predictions), known.texts, known.columns, told(task="regression"))
    assert (task.center, task.unit) == (center, unit)


def test_scale_without_numbers() -> None:
    """A regression by configuration whose first labels are all texts gets the plain scale."""
    known = Known()
    task = infer_task(known.pairs(["a"], [1.0]), known.texts, known.columns, told(task="regression"))
    assert (task.center, task.unit) == (0.0, 1.0)


def classes_of(
    name: TaskName,
    mode: Mode,
    texts: Sequence[str] = (),
    columns: Sequence[str] = (),
    options: ModelPerformanceOptions = PLAIN,
    bound: int = 4,
) -> tuple[Classes, Known]:
    """Classes that have learned texts and columns."""
    known = Known()
    known.texts, known.columns = Names(8, texts), Names(8, columns)
    classes = Classes(Task(name, mode), options, bound, known.texts)
    classes.learn(known.texts, known.columns)
    return classes, known


def coded(classes: Classes, known: Known, values: Values) -> list[int | None]:
    """The class codes of labels, None for what is unusable."""
    encoded = encoded_values(values, known.texts)
    classes.learn(known.texts, known.columns)
    codes, usable = classes.codes(*encoded)
    return [code if fits else None for code, fits in zip(codes.tolist(), usable.tolist(), strict=True)]


def predicted(classes: Classes, known: Known, values: Values) -> list[int | None]:
    """The class codes of predictions, None for what is unusable."""
    encoded = encoded_values(values, known.texts)
    classes.learn(known.texts, known.columns)
    codes, usable = classes.prediction_codes(*encoded)
    return [code if fits else None for code, fits in zip(codes.tolist(), usable.tolist(), strict=True)]


def test_a_third_class_of_a_binary_model_is_other() -> None:
    """Two texts are the classes for good; a third one is code 0, known as a text or not."""
    classes, known = classes_of("binary", "text", ["a", "b"])
    assert coded(classes, known, ["b", "a", "third", "b"]) == [2, 1, 0, 2]
    assert classes.table.names == ["a", "b"]
    known.texts = Names(3, known.texts.names)
    assert coded(classes, known, ["fourth", "fifth"]) == [0, 0]


def test_a_number_for_texts_is_unusable_unless_it_is_written_like_one() -> None:
    """What no class is called is a mistake of kind, not another class; texts beside it are used."""
    classes, known = classes_of("binary", "text", ["ok", "7"])
    assert coded(classes, known, ["ok", 3.0, 7.0, True, "7"]) == [1, None, 2, None, 2]
    assert predicted(classes, known, [7, 8]) == [2, None]
    classes, known = classes_of("binary", "text", ["false", "true"])
    assert coded(classes, known, [True, False, 1.0]) == [2, 1, None]


def test_numbers_become_classes_as_they_come() -> None:
    """Classes that are numbers get codes in the order of appearance up to the bound; a text is none of them."""
    classes, known = classes_of("multiclass", "number", bound=3)
    assert coded(classes, known, [7, 7.0]) == [1, 1]
    assert coded(classes, known, [2, 7, 2, "x"]) == [2, 1, 2, 0]
    assert coded(classes, known, [-0.5]) == [3]
    assert coded(classes, known, [9, "-0.5"]) == [0, 3]
    assert classes.table.names == ["7", "2", "-0.5"]


@pytest.mark.parametrize(
    ("one", "other"), [(1234567.0, 1234568.0), (1e300, 1.0000001e300), (0.1, 0.1 + 2.0**-50), (2.0**53, 2.0**53 + 2.0)]
)
def test_numbers_that_differ_are_different_classes(one: float, other: float) -> None:
    """No two numbers share a class because they are written alike, and 0 and -0 are one."""
    classes, known = classes_of("multiclass", "number")
    assert coded(classes, known, [one]) == [1]
    assert coded(classes, known, [other, one]) == [2, 1]
    assert coded(classes, known, [0.0]) == coded(classes, known, [-0.0]) == [3]


def test_numbers_fit_their_columns() -> None:
    """A class of seven digits is the one with the probability of that name."""
    classes, known = classes_of("multiclass", "number", columns=["1234567", "5"])
    assert coded(classes, known, [1234567, 5]) == [1, 2]


def test_first_new_tells_where_to_cut() -> None:
    """Only the first number without a class counts, texts never do, and declared or full tables get nothing new."""
    classes, known = classes_of("multiclass", "number", bound=3)
    assert coded(classes, known, [7]) == [1]
    values = encoded_values([7, "text", 7.0, 8, 9], known.texts)
    assert classes.first_new(*values) == 3
    assert classes.first_new(values[0][:3], values[1][:3]) is None
    assert coded(classes, known, [8]) == [2]
    assert coded(classes, known, [9]) == [3]
    assert classes.first_new(*encoded_values([10], known.texts)) is None
    declared = told(classes=("1", "2", "3"))
    cases: list[tuple[Mode, ModelPerformanceOptions]] = [("text", PLAIN), ("number", declared), ("score", PLAIN)]
    for mode, options in cases:
        other, _ = classes_of("multiclass", mode, options=options)
        assert other.first_new(*encoded_values([10], known.texts)) is None


def test_declared_classes_are_all_there_are() -> None:
    """A text, a number or a column that was not declared is other, and the codes are in the declared order."""
    classes, known = classes_of("multiclass", "text", ["x", "b"], ["x", "a"], options=told(classes=("a", "b", "c")))
    assert classes.table.names == ["a", "b", "c"]
    assert coded(classes, known, ["x", "b", "a", "new"]) == [0, 2, 1, 0]
    classes, known = classes_of("multiclass", "number", columns=["5"], options=told(classes=("1", "2", "3")))
    assert coded(classes, known, [2, 5, "3"]) == [2, 0, 3]
    assert classes.table.names == ["1", "2", "3"]


def test_another_keeps_two_unlisted_classes_apart() -> None:
    """It takes a code of its own beyond the bound, the same one every time, and survives being stored as a name."""
    classes, known = classes_of("binary", "text", ["a", "b", "c", "d"])
    before = classes.has_another
    assert coded(classes, known, ["c", "d"]) == [0, 0]
    assert classes.another() == classes.another() == 3
    assert (before, classes.has_another) == (False, True)
    assert coded(classes, known, ["c", "new", "a"]) == [0, 0, 1]
    again = Classes(Task("binary", "text"), PLAIN, 4, known.texts, classes.table.names)
    again.learn(known.texts, known.columns)
    assert (again.another(), again.table.names) == (3, classes.table.names)
    assert coded(again, known, ["c", "b"]) == [0, 2]
    assert again.positive == 2


@pytest.mark.parametrize(
    ("mode", "texts", "options", "positive"),
    [
        ("text", ["a", "b"], {}, "b"),
        ("text", ["b", "a"], {}, "b"),
        ("text", ["true", "zebra"], {}, "true"),
        ("text", ["1", "2"], {}, "1"),
        ("text", ["a", "b"], {"positive": "a"}, "a"),
        ("text", ["a", "b"], {"positive": "elsewhere"}, "b"),
        ("text", ["a"], {}, None),
        ("text", ["a"], {"positive": "a"}, "a"),
        ("boolean", [], {}, "true"),
        ("boolean", [], {"positive": "False"}, "false"),
        ("boolean", [], {"positive": "0", "classes": ("0", "1")}, "false"),
        ("number", [], {}, "1"),
        ("number", [], {"positive": "0"}, "0"),
        ("score", [], {}, "true"),
        ("score", [], {"positive": "false"}, "false"),
        ("score", [], {"classes": ("0", "1")}, "true"),
        ("text_score", ["ok", "fraud"], {}, "ok"),
        ("text_score", ["ok", "fraud"], {"positive": "fraud"}, "fraud"),
        ("text_score", ["fraud"], {"positive": "fraud"}, "fraud"),
        ("text_score", ["ok"], {"positive": "fraud"}, "fraud"),
        ("text_score", ["ok"], {"positive": "fraud", "classes": ("fraud", "ok")}, "fraud"),
    ],
)
def test_the_positive_class(mode: Mode, texts: list[str], options: dict[str, object], positive: str | None) -> None:
    """The configured one, else `true`, `1`, or the last in the order of the alphabet once there are two."""
    classes, _ = classes_of("binary", mode, texts, options=told(**options))
    code = classes.positive
    assert (None if code is None else classes.table.names[code - 1]) == positive


def test_several_classes_have_no_positive_one() -> None:
    """Even if two of them are called so."""
    assert classes_of("multiclass", "text", ["false", "true"])[0].positive is None


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        (["ok", "fraud"], {"positive": "fraud"}),
        (["fraud"], {"positive": "fraud"}),
        (["fraud", "ok"], {"positive": "fraud", "classes": ("fraud", "ok")}),
        (["ok"], {"positive": "fraud", "threshold": 0.5}),
    ],
)
def test_a_high_score_means_the_positive_class(texts: list[str], options: dict[str, object]) -> None:
    """Whichever text came first, and in whatever order classes are declared, now and after the other one has come."""
    classes, known = classes_of("binary", "text_score", texts, options=told(**options))
    for _ in range(2):
        high, low = predicted(classes, known, [0.9, 0.1])
        assert (high, low) in {(1, 2), (2, 1)}
        assert high == classes.positive
        row, bad = classes.probabilities(2, np.zeros((1, 0)), known.columns, *encoded_values([0.9], known.texts))
        assert row[0, (high or 0) - 1] == 0.9
        assert not bad[0]
        assert coded(classes, known, ["fraud", "ok"]) == [high, low]


def test_the_threshold_is_that_of_the_configuration() -> None:
    """A score at the threshold is positive, and a prediction that is no number is unusable."""
    classes, known = classes_of("binary", "score", options=told(threshold=0.7))
    assert predicted(classes, known, [0.7, 0.69, True, "true"]) == [2, 1, None, None]


@pytest.mark.parametrize("options", [{}, {"classes": ("0", "1")}, {"classes": ("no", "yes")}])
@pytest.mark.parametrize("mode", ["boolean", "score"])
def test_booleans_have_many_spellings(mode: Mode, options: dict[str, object]) -> None:
    """True, 1, "true", "True", "TRUE" and "1" are one class, whatever was declared; 2 and "yes" are other."""
    classes, known = classes_of("binary", mode, options=told(**options))
    values: Values = [True, 1, "true", "True", "TRUE", "1", False, 0.0, "False", "0", 2, "yes", 0.5]
    assert coded(classes, known, values) == [2] * 6 + [1] * 4 + [0] * 3
    assert classes.table.names == ["false", "true"]


def probabilities(
    classes: Classes, known: Known, rows: Sequence[dict[str, float] | None], predictions: Values = ()
) -> tuple[F64, Bool]:
    """Probabilities by class."""
    cells = encode_probabilities(rows, known.columns)
    classes.learn(known.texts, known.columns)
    values = encoded_values(list(predictions) or ["a"] * len(rows), known.texts)
    return classes.probabilities(max(len(classes.table), 2), cells, known.columns, *values)


def test_of_two_classes_one_probability_is_enough() -> None:
    """The other one is its complement, and rows without any, or whose two do not add up, have no score."""
    classes, known = classes_of("binary", "text", ["a", "b"])
    found, bad = probabilities(classes, known, [{"b": 0.7}, None, {}])
    np.testing.assert_allclose(found[:, 0], [0.3, np.nan, np.nan])
    assert found[0, 1] == 0.7
    assert not bad.any()
    found, bad = probabilities(classes, known, [{"b": 0.7, "a": 0.31}, {"b": 0.7, "a": 0.4}, {"a": 0.9}, {"b": 0.2}])
    assert bad.tolist() == [False, True, True, False]
    np.testing.assert_allclose(found[:, 0], [0.3, np.nan, np.nan, 0.8])


def test_what_a_row_gave_does_not_change_when_the_other_class_comes() -> None:
    """A row of one column has the same probabilities after a second column has come: a correction takes them away."""
    classes, known = classes_of("binary", "text", ["a", "b"])
    first, _ = probabilities(classes, known, [{"b": 0.7}, {"b": 0.0}])
    probabilities(classes, known, [{"a": 0.5, "b": 0.5}])
    values = encoded_values(["a", "a"], known.texts)
    later, bad = classes.probabilities(2, np.array([[0.7, 0.0], [0.0, 0.0]]), known.columns, *values)
    np.testing.assert_array_equal(first, later)
    assert not bad.any()


def test_probabilities_of_several_classes() -> None:
    """A column for each class in its code's place, 0 for one left out; sums off by more than 2 % are unusable."""
    classes, known = classes_of("multiclass", "text", ["a", "b", "c"])
    rows = [{"c": 0.5, "a": 0.5}, {"c": 0.5, "b": 0.4}, {"b": 0.99, "a": 0.0}, None, {"a": 0.6, "b": 0.6}]
    found, bad = probabilities(classes, known, rows)
    assert bad.tolist() == [False, True, False, False, True]
    np.testing.assert_array_equal(found[0], [0.5, 0.0, 0.5])
    np.testing.assert_array_equal(np.isnan(found[:, 0]), [False, True, False, True, True])


def test_columns_of_no_class_are_unusable() -> None:
    """Probabilities of classes that were not declared say nothing; open classes take their columns in."""
    classes, known = classes_of("multiclass", "text", ["a"], options=told(classes=("a", "b", "c")))
    found, bad = probabilities(classes, known, [{"x": 0.5, "y": 0.5}])
    assert np.isnan(found[0, 0])
    assert bad[0]
    classes, known = classes_of("binary", "text", options=told(classes=("a", "b")))
    found, bad = probabilities(classes, known, [{"x": 0.5, "y": 0.5}])
    assert np.isnan(found[0, 0])
    assert bad[0]
    classes, known = classes_of("multiclass", "text", ["a"])
    found, bad = probabilities(classes, known, [{"x": 0.25, "y": 0.75}])
    assert classes.table.names == ["a", "x", "y"]
    np.testing.assert_array_equal(found, [[0.0, 0.25, 0.75]])
    assert not bad[0]


@pytest.mark.parametrize("names", [("false", "true"), ("False", "True"), ("FALSE", "TRUE"), ("0", "1")])
def test_columns_of_booleans_have_many_spellings(names: tuple[str, str]) -> None:
    """The probability of `True` or `1` is that of the class true."""
    classes, known = classes_of("binary", "boolean")
    found, _ = probabilities(classes, known, [{names[0]: 0.2, names[1]: 0.8}], [True])
    np.testing.assert_allclose(found, [[0.2, 0.8]])


def test_a_score_is_its_own_probability() -> None:
    """Beyond [0, 1], or of another kind, it is unusable; rows without probabilities keep it beside others."""
    classes, known = classes_of("binary", "score")
    found, bad = probabilities(classes, known, [None] * 4, [0.9, 1.2, True, -0.1])
    np.testing.assert_allclose(found[0], [0.1, 0.9])
    assert np.isnan(found[1:, 0]).all()
    assert bad.tolist() == [False, True, True, True]
    found, bad = probabilities(classes, known, [None, {"true": 0.75}, None], [0.9, 0.5, "x"])
    np.testing.assert_allclose(found[:, 1], [0.9, 0.75, np.nan])
    assert bad.tolist() == [False, False, True]
    classes, known = classes_of("binary", "text", ["a", "b"])
    found, bad = probabilities(classes, known, [None], [0.9])
    assert np.isnan(found[0, 0])
    assert not bad[0]


@given(
    cells=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=12),
    more=st.integers(1, 8),
)
@settings(max_examples=200, deadline=None)
def test_later_classes_change_no_bit(cells: list[float], more: int) -> None:
    """Columns of zeros leave the verdict on a row, and its probabilities, as they were."""
    names = [f"c{n}" for n in range(len(cells) + more)]
    known = Names(20, names)
    classes = Classes(Task("multiclass", "text"), told(classes=tuple(names)), 20, Names(8))
    few, many = np.array([cells]), np.array([cells + [0.0] * more])
    some = Names(20, names[: len(cells)])
    value = np.zeros(1), np.zeros(1, dtype=np.int8)
    one, other = classes.probabilities(20, few, some, *value), classes.probabilities(20, many, known, *value)
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]


# Values as numbers.


def test_values_and_their_kinds() -> None:
    """Each kind of value, alone and mixed with others, is a number and a kind."""
    texts = Names(2)
    values, kinds = encoded_values([1.5, True, "b", None, "a", "b", 7], texts)
    assert values[:7].tolist() == [1.5, 1.0, 1.0, 0.0, 2.0, 1.0, 7.0]
    assert kinds.tolist() == [NUMBER, BOOLEAN, TEXT, NO_LABEL, TEXT, TEXT, NUMBER]
    for alone in ([1, 2.5], [True, False], [None, None], []):
        mixed, of_mixed = encoded_values([*alone, "a"], texts)
        values, kinds = encoded_values(alone, texts)
        assert (values.tolist(), kinds.tolist()) == (mixed[:-1].tolist(), of_mixed[:-1].tolist())


def test_texts_beyond_the_bound_are_told_apart() -> None:
    """Without a code they are negative numbers: equal for equal texts only."""
    texts = Names(1, ["known"])
    values, _ = encoded_values(["x", "y", "x", "known"], texts)
    assert values[0] == values[2] != values[1]
    assert (values[:3] < 0).all()
    assert values[3] == 1.0


def test_names_are_bounded() -> None:
    """Codes go by appearance, names that begin alike for long are one, and a reserved name has room."""
    names = Names(2, ["a", "x" * 200])
    assert names.find("x" * 300) == names.add("x" * NAME_CHARS_MAX) == 2
    assert (names.add("b"), names.find("b"), len(names)) == (0, 0, 2)
    assert names.first_new(["b"]) is None
    assert names.reserve("b") == names.reserve("b") == names.find("b") == 3
    assert names.add("c") == 0
    assert Names(2, ["a"]).first_new([None, "a", "b"]) == 2


def naive_cells(rows: Sequence[dict[str, float] | None], names: Sequence[str]) -> list[list[float]]:
    """The naive twin of `encode_probabilities`, for names that are there."""
    return [[row.get(name, 0.0) if row else np.nan for name in names] for row in rows]


@given(st.lists(st.one_of(st.none(), st.dictionaries(st.sampled_from("abcdef"), st.floats(0.0, 1.0))), max_size=6))
@settings(max_examples=200, deadline=None)
def test_probabilities_have_a_column_each(rows: list[dict[str, float] | None]) -> None:
    """Names get columns in the order of appearance up to the bound; rows without any are NaN."""
    columns = Names(4)
    cells = encode_probabilities(rows, columns)
    appeared = list(dict.fromkeys(name for row in rows for name in row or ()))
    assert columns.names == appeared[:4]
    np.testing.assert_array_equal(cells, np.array(naive_cells(rows, columns.names)).reshape(len(rows), len(columns)))


def test_long_names_keep_their_probabilities() -> None:
    """A class whose name is longer than is kept has its probability all the same."""
    columns = Names(4)
    long = "x" * 200
    cells = encode_probabilities([{long: 0.75, "a": 0.25}, None, {long: 0.5, long + "y": 0.25, "a": 0.25}], columns)
    assert columns.names == ["x" * NAME_CHARS_MAX, "a"]
    np.testing.assert_array_equal(cells, [[0.75, 0.25], [np.nan, np.nan], [0.75, 0.25]])


def test_kinds_are_small_integers() -> None:
    """Kinds travel as int8 with every value."""
    kinds: I8 = encoded_values(["a", 1, None], Names(1))[1]
    assert kinds.dtype == np.int8
