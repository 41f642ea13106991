"""Calls by a certificate alone: python examples/mutual_tls.py

With `weft up --mtls`, and `weft certs issue spiffe://weft/users/ada` (docs/tls.md). The files are named in
WEFT_CERTIFICATE, WEFT_CERTIFICATE_KEY and WEFT_CA.
"""

import os

from weft.client import Client, MutualTls

MODEL = os.environ.get("WEFT_MODEL", "sim-model")

tls = MutualTls(
    certificate_file=os.environ["WEFT_CERTIFICATE"],
    key_file=os.environ["WEFT_CERTIFICATE_KEY"],
    ca_file=os.environ["WEFT_CA"],
    server_name="router.weft.weft",  # the router's name in its certificate, whatever address it has
)
with Client(tls=tls) as client:
    print("I may use:", ", ".join(model.id for model in client.models()))
    print(client.chat(MODEL, "Hello", max_tokens=8).choices[0].message.text)
