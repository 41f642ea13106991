"""The outcome of one look at something, as `weft doctor` and `weft functions verify` tell it."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one look; `remedy` is empty where all is well."""

    part: str
    found: str
    remedy: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing needs to be done."""
        return not self.remedy


def print_check(check: Check, console: Console, *, width: int = 14) -> None:
    """A line, and one more with the remedy where something is to be done; `width` is that of the part."""
    mark = "[green]ok[/]" if check.good else "[red]no[/]"
    console.print(f"{mark}  {check.part:<{width}}", end="")
    console.print(f" {check.found}" if len(check.part) >= width else check.found, markup=False, soft_wrap=True)
    if not check.good:
        console.print(f"    remedy: {check.remedy}", markup=False, soft_wrap=True)
