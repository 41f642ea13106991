"""What it means that the mesh answers as vLLM does.

`same` is the rule: the same status, content type and bytes, once ids and times are replaced. Streams are compared event
by event, and where only the grouping of tokens into events differs (vLLM groups by timing), by their joined deltas and
the sequence of everything else. `same_shape` is for what Weft must answer by itself: the same keys in the same order.
"""

import difflib
import json
import re
from collections.abc import Iterator
from typing import Any

from tests.vllm.exchange import Answer

JsonObject = dict[str, Any]

# Ids have a prefix that tells the kind, then what is new in each answer.
ID_PREFIXES = "chatcmpl-tool|chatcmpl|cmpl|embd|pooling|score|rerank|classify|modelperm|resp|msg|call|fc|rs|toolu"
ID = re.compile(rf'"({ID_PREFIXES})[-_][A-Za-z0-9._:/-]+"')
TIME = re.compile(r'"(created|created_at)":( ?)\d+')
# What a delta adds to: joined over the events of a stream before they are compared.
GROWING = {
    *("content", "reasoning", "text", "arguments", "delta", "partial_json", "thinking"),
    *("token_ids", "tokens", "token_logprobs", "top_logprobs", "text_offset", "logprobs"),
}


def without_ids_and_times(text: str) -> str:
    """Replace each id by its prefix and its rank among the ids, so that using one id in two places still tells."""
    ranks: dict[str, int] = {}

    def rank(match: re.Match[str]) -> str:
        return f'"{match[1]}#{ranks.setdefault(match[0], len(ranks))}"'

    return TIME.sub(r'"\1":\g<2>0', ID.sub(rank, text))


def events(stream: str) -> list[str]:
    """The events of an SSE stream, each as it was sent; the last item is what follows the last blank line."""
    return stream.split("\n\n")


def event_data(event: str) -> Any:
    """The JSON after `data: `; None for `[DONE]`, comments and what is not JSON."""
    for line in event.split("\n"):
        if line.startswith("data: {"):
            return json.loads(line.removeprefix("data: "))
    return None


def is_delta(data: JsonObject) -> bool:
    if "choices" in data:
        return bool(data["choices"])
    return str(data.get("type")).endswith(("_delta", ".delta"))


def take_growing(value: Any, path: str, grown: dict[str, list[Any]]) -> Any:
    """`value` without its growing members, which are added to `grown` under their path."""
    if isinstance(value, list):
        return [take_growing(item, path, grown) for item in value]
    if not isinstance(value, dict):
        return value
    rest: JsonObject = {}
    for key, member in value.items():
        where = f"{path}.{key}"
        if key in GROWING and isinstance(member, str | list):
            grown.setdefault(where, []).extend(member)
        elif key != "sequence_number":
            rest[key] = take_growing(member, where, grown)
    # An empty holder ({"delta": {}}) stands for one whose only member was taken.
    return {key: member for key, member in rest.items() if member not in ({}, None)}


def finishes(data: JsonObject) -> bool:
    return any(choice.get("finish_reason") for choice in data.get("choices", ()))


def folded(stream: str) -> tuple[dict[str, list[Any]], list[str]]:
    """A stream as its joined deltas, and the sequence of everything else.

    An event that carries a piece of text and nothing else that differs from the event before is left out of the
    sequence: how many there are is the grouping. The sequences of the choices of one answer (`n`) are kept apart,
    because how they alternate is timing as well.
    """
    grown: dict[str, list[Any]] = {}
    sequences: dict[str, list[str]] = {}
    for event in events(stream):
        data = event_data(event)
        if data is not None and str(data.get("type")).startswith("response."):
            data = without_halves(data)
            event = event.partition("data: ")[0] + json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        if data is None or not is_delta(data):
            sequences.setdefault("", []).append(re.sub(r'"sequence_number":\d+', '"sequence_number":0', event))
            continue
        index = str(data["choices"][0]["index"] if "choices" in data else data.get("index", data.get("output_index")))
        piece: dict[str, list[Any]] = {}
        rest = take_growing(data, index, piece)
        for where, items in piece.items():
            grown.setdefault(where, []).extend(items)
        # Also by an empty text, as of a token that holds the first bytes of a character.
        only_grew = bool(piece) and not finishes(data)
        if only_grew:
            rest.pop("usage", None)  # continuous_usage_stats: a running count, so it depends on the grouping
        text = json.dumps(rest)
        sequence = sequences.setdefault(index, [])
        if not (only_grew and names_nothing_new(rest.get("choices", []))):
            sequence.append(text)
    grown = {where: items for where, items in grown.items() if items}
    return grown, [f"{index}: {item}" for index in sorted(sequences) for item in sequences[index]]


def without_halves(value: Any) -> Any:
    """`value` without the log probabilities of tokens without text. A token that holds half a character has none until
    the next one, and vLLM's Responses API sends no event for it: what it would have told of the token is lost, from the
    whole that it tells at the end too, unless both tokens come together.
    """
    if isinstance(value, list):
        return [without_halves(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: without_halves(member) for key, member in value.items()}
    if isinstance(told := kept.get("logprobs"), list):
        kept["logprobs"] = [token for token in told if token["token"]]
    return kept


def names_nothing_new(value: Any) -> bool:
    """Whether the choices of an event without its text hold nothing but the index that says which they are."""
    if isinstance(value, dict):
        return all(key == "index" or names_nothing_new(member) for key, member in value.items())
    return isinstance(value, list) and all(names_nothing_new(item) for item in value)


def same_stream(direct: str, mesh: str) -> None:
    if events(direct) == events(mesh):
        return
    direct_grown, direct_sequence = folded(direct)
    mesh_grown, mesh_sequence = folded(mesh)
    changes = difflib.unified_diff(direct_sequence, mesh_sequence, "vLLM", "mesh", lineterm="")
    assert mesh_sequence == direct_sequence, "\n".join(changes)
    assert mesh_grown == direct_grown, (direct_grown, mesh_grown)


def same(direct: Answer, mesh: Answer) -> None:
    """Status, content type and body are equal, ids and times and the grouping of tokens aside."""
    assert (mesh.status, mesh.content_type) == (direct.status, direct.content_type), mesh.body[:2000]
    # vLLM's load, of the moment.
    assert ("endpoint-load-metrics" in mesh.headers) == ("endpoint-load-metrics" in direct.headers)
    if not (direct.streamed or direct.content_type == "application/json"):
        # Vectors as bytes, which a header describes.
        assert mesh.body == direct.body
        described = [without_ids_and_times(answer.headers.get("metadata", "")) for answer in (direct, mesh)]
        assert described[0] == described[1]
        return
    direct_text = without_ids_and_times(direct.body.decode())
    mesh_text = without_ids_and_times(mesh.body.decode())
    if direct.streamed:
        same_stream(direct_text, mesh_text)
    else:
        assert mesh_text == direct_text


def shape(value: Any, path: str = "") -> Iterator[str]:
    """Every key of a JSON value with the type of what it holds, in order."""
    if isinstance(value, dict):
        yield f"{path}: object"
        for key, member in value.items():
            yield from shape(member, f"{path}.{key}")
    elif isinstance(value, list):
        yield f"{path}: array"
        for member in value[:1]:
            yield from shape(member, f"{path}[]")
    else:
        yield f"{path}: {'number' if isinstance(value, int | float) else 'string or null'}"


def same_shape(direct: Answer, mesh: Answer) -> None:
    """Status, content type, `allow` and the JSON's keys are equal; of an error, its type and code as well."""
    assert (mesh.status, mesh.content_type) == (direct.status, direct.content_type), mesh.body[:2000]
    assert mesh.headers.get("allow") == direct.headers.get("allow")
    if not direct.body:
        assert not mesh.body
        return
    direct_json, mesh_json = json.loads(direct.body), json.loads(mesh.body)
    assert list(shape(mesh_json)) == list(shape(direct_json)), mesh.body[:2000]
    if "error" in direct_json:
        for member in ("type", "code"):
            assert mesh_json["error"].get(member) == direct_json["error"].get(member)


def anthropic_shape(direct: Answer, mesh: Answer) -> None:
    """Status and content type are vLLM's, and the body is Anthropic's, which vLLM keeps to only in part."""
    assert (mesh.status, mesh.content_type) == (direct.status, direct.content_type), mesh.body[:2000]
    assert list(shape(json.loads(mesh.body))) == [
        ": object",
        ".type: string or null",
        ".error: object",
        ".error.type: string or null",
        ".error.message: string or null",
    ]
    assert json.loads(mesh.body)["type"] == "error"
