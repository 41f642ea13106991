"""Lets a model call functions of this program until it answers: python examples/tools.py [QUESTION]"""

import json
import os
import sys

from weft.client import Client, tool, tool_result
from weft.client.messages import Message

MODEL = os.environ.get("WEFT_MODEL", "sim-model")
ROUNDS = 4


def weather(city: str, unit: str = "celsius") -> str:
    """What the model may call."""
    return f"18 degrees {unit} and rain in {city}"


WEATHER = tool(
    "weather",
    "Tells the weather of a city.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
    },
)

said: list[Message] = [" ".join(sys.argv[1:]) or "Do I need an umbrella in Chicago?"]
with Client() as client:
    for turn in range(ROUNDS):
        choice = "weather" if turn == 0 else "auto"  # this one is to be called at first; then the model decides
        message = client.chat(MODEL, said, tools=[WEATHER], tool_choice=choice, max_tokens=300).choices[0].message
        said.append(message)
        if not message.tool_calls:
            print(message.text)
            break
        for call in message.tool_calls:
            print(f"{call.function.name}({call.function.arguments})")
            try:
                result = weather(**json.loads(call.function.arguments))
            except (ValueError, TypeError) as error:  # arguments are what the model wrote, which may be anything
                result = f"Wrong arguments: {error}"
            said.append(tool_result(call, result))
    else:
        print(f"No answer after {ROUNDS} rounds.")
