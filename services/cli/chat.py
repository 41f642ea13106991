"""`weft chat`: a conversation with a model, in the terminal."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from typing import Annotated

import typer

from services.cli.completions import Completions, Message, open_completions
from services.cli.connection import facade_url, read_key
from services.cli.failures import CommandError
from services.cli.settings import load

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def chat(
    question: Annotated[str | None, typer.Argument(help="One question; without it, a conversation.")] = None,
    model: Annotated[str | None, typer.Option(help="The model; the first of yours if not given.")] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told beforehand.")] = None,
) -> None:
    """Chat with a model. Ctrl-C stops an answer, Ctrl-D leaves."""
    config = load()
    url, key = facade_url(config), read_key(config)
    history: list[Message] = [{"role": "system", "content": system}] if system else []
    with asyncio.Runner() as runner:
        chosen = model or runner.run(_first_model(url, key))
        if question is not None:
            runner.run(_turn(url, key, chosen, history, question))
            return
        print(f"{chosen} at {url}. Ctrl-C stops an answer, Ctrl-D leaves.")
        while (question := _read_question()) is not None:
            try:
                runner.run(_turn(url, key, chosen, history, question))
            except KeyboardInterrupt:
                continue  # it stopped the answer, not the conversation
            except CommandError as error:
                print(f"weft: {error}", file=sys.stderr)


def _read_question() -> str | None:
    """The next line that is not empty; None at the end of the input."""
    try:
        while not (line := input("> ").strip()):
            pass
    except EOFError:
        print()
        return None
    return line


async def _first_model(url: str, key: str) -> str:
    async with open_completions(url, key) as completions:
        return await first_model(completions)


async def _turn(url: str, key: str, model: str, history: list[Message], question: str) -> None:
    async with open_completions(url, key) as completions:
        await turn(completions, model, history, question)


async def first_model(completions: Completions) -> str:
    """The first model that the key may call. Raises `CommandError` if there is none."""
    models = await completions.models()
    if not models:
        raise CommandError("No model can be called at present; 'weft status' shows why.")
    return models[0]


async def turn(completions: Completions, model: str, history: list[Message], question: str) -> None:
    """Asks, and prints the answer as it comes; both become history. A question without an answer does not."""
    asked: Message = {"role": "user", "content": question}
    said: list[str] = []
    try:
        async with aclosing(completions.ask(model, [*history, asked])) as pieces:
            async for piece in pieces:
                said.append(piece)
                print(piece, end="", flush=True)
    finally:
        print()
        if said:
            history += [asked, {"role": "assistant", "content": "".join(said)}]
