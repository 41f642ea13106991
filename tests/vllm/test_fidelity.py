"""The mesh answers as vLLM does: one comparison, over the whole table."""

import itertools

import pytest

from tests.vllm.conftest import Servers
from tests.vllm.exchange import Answer, send
from tests.vllm.mesh import Mesh
from tests.vllm.rows import chat, completions, errors, pooling, responses
from tests.vllm.rows.row import Row

TABLE = list(itertools.chain(chat.rows(), completions.rows(), responses.rows(), pooling.rows(), errors.rows()))


def ask_directly(url: str, row: Row) -> Answer:
    """Ask vLLM twice and keep the second answer: the first fills the prefix cache, which shows in the usage."""
    send(url, row.method, row.path, row.headers, row.body)
    return send(url, row.method, row.path, row.headers, row.body)


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_the_mesh_answers_as_vllm_does(servers: Servers, mesh: Mesh, row: Row) -> None:
    direct = ask_directly(servers[row.model].url, row)
    through = send(mesh.url, row.method, row.path, {**row.headers, **mesh.authorization}, row.body)
    row.compare(direct, through)
