"""The README's chapter on clusters, typed as it stands, ends with a streamed answer from a model in a Slurm job."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import yaml

from tests.globus.hosted import Hosted, Identity
from tests.globus.readme import PATIENCE, Block, Terminal, read_chapter
from tests.globus.recipes import Recipes
from tests.globus.run import Run, as_user
from tests.globus.slurm import Slurm
from tests.testing.parts import requires_part
from tests.testing.processes import HeldPort
from tests.vllm.rows.row import CHAT_MODEL
from tests.vllm.worker import CHECKOUT

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def copy_checkout(folder: Path) -> None:
    """A clone of what is to be committed, as somebody else would have it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, folder / name)


def describe_cluster(recipes: Recipes, run: Run, folder: Path) -> dict[str, str]:
    """The site and the model, as files of one's own, and what else is one's own in the chapter's first block."""
    site = recipes.describe_site("slurm", real=True)
    site["environment"] = {"venv": "~/weft"}
    site["endpoint_environment"] = run.marks
    site["amqp_port"] = None
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    (folder / "model.yaml").write_text(yaml.safe_dump(recipes.describe_model(real=True)))
    return {
        "SITE": str(folder / "site.yaml"),
        "MODEL": str(folder / "model.yaml"),
        "MODEL_NAME": CHAT_MODEL,
    }


def variables_of(block: Block) -> set[str]:
    """What a block exports."""
    return set(re.findall(r"^export (\w+)=", block.text, re.MULTILINE))


@requires_part("vllm")
async def test_the_chapter_ends_with_a_streamed_answer_from_a_job(
    run: Run, hosted: Hosted, owner: Identity, slurm: Slurm, recipes: Recipes, account: str
) -> None:
    yours, *blocks = read_chapter()
    home = run.folder / "home" / account
    checkouts = {"gateway": run.folder / "readme", "cluster": home / "checkout"}
    for folder in checkouts.values():
        copy_checkout(folder)
    run.own(home, account)
    port = HeldPort()  # on which the facade may listen all the same
    values = {
        **describe_cluster(recipes, run, run.folder / "readme"),
        **owner.environ,
        "WEFT_URL": f"http://127.0.0.1:{port.port}",
    }
    assert variables_of(yours) == values.keys(), "the test has a value for each variable, and for nothing else"

    common = {**run.marks, **hosted.environ, **values, "LANG": "C.UTF-8", "COLUMNS": "200"}
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    gateway_environ = {
        **common,
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(checkouts["gateway"]),
        "WEFT_FACADE__PORT": str(port.port),
        "GLOBUS_COMPUTE_USER_DIR": str(run.folder / "readme" / "sdk"),
    }
    cluster_environ = {**common, **pip, **slurm.environ, "PATH": "/usr/bin:/bin", "HOME": str(home)}
    async with AsyncExitStack() as stack:
        mesh = Terminal(checkouts["gateway"], gateway_environ)
        gateway = Terminal(checkouts["gateway"], gateway_environ)
        cluster = Terminal(checkouts["cluster"], cluster_environ, as_user(account))
        for terminal in (mesh, gateway, cluster):
            await terminal.open()
            stack.push_async_callback(terminal.close)
        stack.callback(port.close)
        said = ""
        for block in blocks:
            if block.machine == "gateway" and block.stays:
                await mesh.type(block)
                await mesh.until(re.escape(values["WEFT_URL"]))
            elif block.machine == "cluster" and block.stays:
                await cluster.type(block)
                uuid = (await cluster.until(UUID))[0]
                async with asyncio.timeout(PATIENCE):
                    while not await asyncio.to_thread(hosted.online, uuid):  # noqa: ASYNC110 the event is elsewhere
                        await asyncio.sleep(0.1)
                await gateway.type(Block("gateway", False, f"export ENDPOINT_UUID={uuid}"))
            elif block.machine == "cluster":
                # What the chapter has the reader carry from the one machine to the other.
                shutil.copy2(checkouts["gateway"] / "functions.yaml", checkouts["cluster"])
                await cluster.type(block)
            else:
                said = await gateway.type(block)
    assert len(slurm.jobs("weft-chat-0")) == 1
    events = re.findall(r"^data: (.*)$", said, re.MULTILINE)
    assert events[-1] == "[DONE]"
    assert any('"content":"' in event and CHAT_MODEL in event for event in events[:-1])
    assert re.search(r"^clusters/first/endpoints/chat\b", said, re.MULTILINE), "weft status shows it"
