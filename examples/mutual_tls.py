"""Calls by a certificate alone: python examples/mutual_tls.py

With `weft up --mtls`, `weft certs issue spiffe://weft/users/ada`, and a rule in `auth.certificates` that admits her
(docs/tls.md). The files are named in WEFT_CERTIFICATE, WEFT_CERTIFICATE_KEY and WEFT_CA. A router's certificate has its
role for a name, whatever address it has; for an Envoy in front of it, set WEFT_SERVER_NAME to the host in Envoy's.
"""

import os

from weft.client import Client, MutualTls

MODEL = os.environ.get("WEFT_MODEL", "sim-model")

tls = MutualTls(
    certificate_file=os.environ["WEFT_CERTIFICATE"],
    key_file=os.environ["WEFT_CERTIFICATE_KEY"],
    ca_file=os.environ["WEFT_CA"],
    server_name=os.environ.get("WEFT_SERVER_NAME", "router.weft.weft"),
)
with Client(tls=tls) as client:
    print("I may use:", ", ".join(model.id for model in client.models()))
    print(client.chat(MODEL, "Hello", max_tokens=8).choices[0].message.text)
