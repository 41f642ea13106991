"""Counts and distributions."""

from services.core.measures import OTHER, Bounded, Counts, Histograms


def test_counters_of_one_name_stand_apart_by_their_labels() -> None:
    counts = Counts("calls_total", "Calls.", ("outcome",))
    counts.at("ok").value += 2
    counts.at("cancelled").value += 1
    counts.at("ok").value += 1
    assert counts.family().rows == [(("ok",), 3), (("cancelled",), 1)]


def test_a_value_that_equals_a_bound_lies_below_it() -> None:
    histograms = Histograms("seconds", "Seconds.", bounds=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 1.0, 1.5):
        histograms.at().observe(value)
    (row,) = histograms.family().rows
    assert row == ((), ((0.1, 1.0), (2, 2, 1), 3.15))


def test_a_histogram_that_shows_nothing_yet_shows_that() -> None:
    histograms = Histograms("seconds", "Seconds.", ("route",), bounds=(1.0,))
    assert histograms.family().rows == []
    histograms.at("a")
    assert histograms.family().rows == [(("a",), ((1.0,), (0, 0), 0.0))]


def test_the_first_names_have_labels_and_keep_them() -> None:
    names = Bounded(2)
    assert [names.label(name) for name in ("a", "b", "c", "a", "b", "d")] == ["a", "b", OTHER, "a", "b", OTHER]
    assert "a" in names
    assert "c" not in names
