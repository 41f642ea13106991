"""The figures as a table for people and as JSON for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.table import Table

from bench.figures import SYSTEMS, Figure, Quantity


def table(figures: Sequence[Figure]) -> Table:
    """One section a load, one row a quantity, one column a system: the median, the range of the rounds, the mark."""
    result = Table(title="Medians (lowest to highest round); ≤ is the mark")
    result.add_column("quantity", no_wrap=True)
    measured = {figure.system for figure in figures}
    systems = [system for system in SYSTEMS if system in measured]
    for system in systems:
        result.add_column(system, justify="right", no_wrap=True)
    cells = {(figure.quantity, figure.system): _cell(figure) for figure in figures}
    quantities = _ordered(figures)
    for load, section in groupby(quantities, key=lambda quantity: quantity.load):
        result.add_section()
        result.add_row(f"[bold]{load}[/]")
        for quantity in section:
            row = [cells.get((quantity, system), "") for system in systems]
            result.add_row(f"{quantity.name}, {quantity.unit}" if quantity.unit else quantity.name, *row)
    return result


def _ordered(figures: Sequence[Figure]) -> list[Quantity]:
    """The quantities, those of a load together, both in the order in which they were measured."""
    quantities = list(dict.fromkeys(figure.quantity for figure in figures))
    loads = [quantity.load for quantity in quantities]
    return sorted(quantities, key=lambda quantity: loads.index(quantity.load))


def _cell(figure: Figure) -> str:
    text = _number(figure.median)
    if len(figure.samples) > 1:
        text += f" [dim]({_number(min(figure.samples))} to {_number(max(figure.samples))})[/]"
    if figure.mark is None:
        return text
    colour, verdict = ("green", "met") if figure.median <= figure.mark else ("red", "missed")
    return f"[{colour}]{text} ≤ {figure.mark:g} {verdict}[/]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def as_json(figures: Sequence[Figure], settings: dict[str, Any]) -> dict[str, Any]:
    """All samples, with what is needed to compare them with another run's."""
    return {
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
        "settings": settings,
        "figures": [
            {
                "quantity": figure.quantity.name,
                "load": figure.quantity.load,
                "unit": figure.quantity.unit,
                "system": figure.system,
                "median": figure.median,
                "samples": list(figure.samples),
                "mark": figure.mark,
                "met": None if figure.mark is None else figure.median <= figure.mark,
            }
            for figure in figures
        ],
    }
