"""What the registry shows of the catalogue that it keeps."""

from __future__ import annotations

from collections.abc import Iterable

from services.core.measures import Family, Page, gauge, gauges
from services.registry.watch import Hub


def show_hub(page: Page | None, hub: Hub) -> None:
    """Puts a hub's state onto a page, where there is one."""
    if page is None:
        return

    def families() -> Iterable[Family]:
        yield gauge("weft_registry_watchers", "Services that watch the catalogue.", hub.watchers)
        yield gauge("weft_registry_catalogue_version", "How many changes the catalogue has seen.", hub.version)
        yield gauges(
            "weft_registry_resources",
            "What the catalogue holds, by kind.",
            ("kind",),
            [((kind,), count) for kind, count in hub.sizes.items()],
        )

    page.add(families)
