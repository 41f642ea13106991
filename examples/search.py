"""Finds the text that is nearest to a query: python examples/search.py [QUERY]"""

import math
import os
import sys
from collections.abc import Sequence

from weft.client import Client

MODEL = os.environ.get("WEFT_EMBEDDING_MODEL", "sim-model")
TEXTS = [
    "The warp is the set of threads that the loom holds under tension.",
    "A router forwards each packet towards where it belongs.",
    "Bread rises as the yeast turns sugar into gas.",
]


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of the angle between two vectors: 1 for the same direction."""
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


query = " ".join(sys.argv[1:]) or TEXTS[0]
with Client() as client:
    *texts, asked = (embedding.values for embedding in client.embed(MODEL, [*TEXTS, query]).embeddings)

ranked = sorted(((likeness(asked, values), text) for text, values in zip(TEXTS, texts, strict=True)), reverse=True)
for score, text in ranked:
    print(f"{score:.3f}  {text}")
