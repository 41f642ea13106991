"""Has a model answer in a shape: python examples/structured.py [TEXT]"""

import json
import os
import sys

from weft.client import Client, json_schema

MODEL = os.environ.get("WEFT_MODEL", "sim-model")
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "large": {"type": "boolean"}},
    "required": ["name", "large"],
    "additionalProperties": False,
}

with Client() as client:
    asked = " ".join(sys.argv[1:]) or "Which city lies at the mouth of the Chicago River?"
    answer = client.chat(MODEL, asked, response_format=json_schema("city", CITY), max_tokens=100, temperature=0)

choice = answer.choices[0]
if choice.finish_reason == "length":
    sys.exit("The answer was cut at max_tokens, and is no JSON.")
city = json.loads(choice.message.text)
print(f"{city['name']} is {'large' if city['large'] else 'small'}.")
