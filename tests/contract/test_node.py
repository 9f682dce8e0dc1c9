"""Clients in JavaScript: the official SDK and the AI SDK, against the same server."""

import os

import pytest

from tests import node_clients
from tests.api.conftest import SECRET
from tests.api.test_batches import worker
from tests.contract.conftest import Live

PROGRAMS = [(name, clients) for clients in node_clients.SETS for name in ("operations.mjs", "ai-sdk.mjs")]


@pytest.mark.parametrize(("program", "clients"), [*PROGRAMS, ("open-responses.mjs", "next")])
def test_every_operation_in_node(live: Live, tuned: str, tool_model: str, program: str, clients: str) -> None:
    environment = {
        **os.environ,
        "OPENAI_BASE_URL": live.base_url,
        "OPENAI_API_KEY": SECRET,
        "TUNERY_TEST_MODEL": tuned,
        "TUNERY_TEST_TOOL_MODEL": tool_model,
        "TUNERY_TEST_PROJECT": live.project_id,
    }
    with worker(live.context):  # that answers batches
        node_clients.run(node_clients.PROGRAMS / program, clients, environment)
