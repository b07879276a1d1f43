"""The MCP server, asked by the SDK's own client in memory, over pipes and over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import anyio
import httpx
import pytest
from mcp import Client, MCPError, StdioServerParameters
from small_index import DOCUMENTS, QUESTION

from openclara import LatentIndex
from openclara.errors import ModelError
from openclara.integrations.mcp import make_server

READING = {"search", "ask", "get_document", "list_documents"}


def in_memory(index, clara, talk, **settings):
    """What `talk` returns, given a client of a server in this process."""
    loads = []

    def load():
        loads.append(threading.current_thread())
        return clara

    async def main():
        async with Client(make_server(index, load, **settings)) as client:
            return await talk(client)

    return anyio.run(main), loads


def sentence(result):
    """The one sentence a failed tool says."""
    assert result.is_error
    (block,) = result.content
    assert "\n" not in block.text
    assert "Traceback" not in block.text
    return block.text


def test_tools_describe_themselves(tiny_clara, tiny_index):
    async def talk(client):
        return await client.list_tools()

    found, _ = in_memory(tiny_index, tiny_clara, talk)
    tools = {tool.name: tool for tool in found.tools}
    assert tools.keys() == READING
    for tool in tools.values():
        assert tool.annotations.read_only_hint
        assert tool.annotations.open_world_hint is False
        assert tool.description.endswith(".")
        assert tool.output_schema["type"] == "object"
        assert "self" not in tool.input_schema["properties"]
    assert "such as lang=en" in tools["search"].input_schema["properties"]["where"]["description"]
    assert tools["ask"].input_schema["required"] == ["question"]

    found, _ = in_memory(tiny_index, tiny_clara, talk, writable=True)
    (adding,) = (tool for tool in found.tools if tool.name not in READING)
    assert adding.name == "add_document"
    assert not adding.annotations.read_only_hint
    assert adding.annotations.destructive_hint


def test_search_and_ask_give_what_the_model_gives(tiny_clara, tiny_index):
    async def talk(client):
        wanted = {"question": QUESTION, "k": 2}
        return (
            await client.call_tool("search", wanted),
            await client.call_tool("ask", wanted),
            await client.call_tool("search", {**wanted, "where": ["year<1900"]}),
        )

    (found, answered, filtered), _ = in_memory(tiny_index, tiny_clara, talk)
    answer = tiny_clara.ask(QUESTION, tiny_index, k=2)
    passages = found.structured_content["passages"]
    assert passages == answered.structured_content["passages"]
    assert [passage["score"] for passage in passages] == [hit.score for hit in answer.hits]
    for passage, hit in zip(passages, answer.hits, strict=True):
        text = tiny_index.get(passage["id"]).text
        assert text[passage["start"] : passage["end"]] == passage["text"] == hit.text
        assert passage["metadata"] == hit.document.metadata
    assert answered.structured_content["answer"] == answer.text
    # Older clients read the text alone.
    assert json.loads(answered.content[0].text) == answered.structured_content
    assert {one["id"] for one in filtered.structured_content["passages"]} == {"tower"}


def test_documents_are_listed_and_read_without_a_model(tiny_clara, tiny_index):
    async def talk(client):
        first = await client.call_tool("list_documents", {"limit": 3})
        last = await client.call_tool("list_documents", {"limit": 3, "offset": 3})
        part = await client.call_tool("get_document", {"id": "opera", "start": 4, "end": 15})
        whole = await client.call_tool("get_document", {"id": "river/angara"})
        return [one.structured_content for one in (first, last, part, whole)]

    (first, last, part, whole), loads = in_memory(tiny_index, tiny_clara, talk)
    listed = first["documents"] + last["documents"]
    assert [one["id"] for one in listed] == [document.id for document in DOCUMENTS]
    assert listed[0]["characters"] == len(DOCUMENTS[0].text)
    assert (first["total"], first["next_offset"], last["next_offset"]) == (4, 3, None)
    assert part["text"] == DOCUMENTS[0].text[4:15] == "opera house"
    assert (part["start"], part["end"], part["metadata"]["year"]) == (4, 15, 1973)
    assert whole["text"] == DOCUMENTS[1].text
    assert whole["end"] == whole["characters"]
    assert loads == []


def test_documents_are_resources_by_their_id(tiny_clara, tiny_index):
    async def talk(client):
        templates = await client.list_resource_templates()
        found = await client.read_resource("openclara://my.idx/river/angara")
        with pytest.raises(MCPError, match=r"has no document '\.\./opera'"):
            await client.read_resource("openclara://my.idx/../opera")
        return templates.resource_templates[0].uri_template, found.contents[0].text

    (template, text), _ = in_memory(tiny_index, tiny_clara, talk)
    assert template == "openclara://my.idx/{+id}"
    assert text == DOCUMENTS[1].text


def test_errors_are_one_sentence_of_the_tool(tiny_clara, tiny_index):
    async def talk(client):
        return [
            sentence(await client.call_tool(name, arguments))
            for name, arguments in [
                ("search", {"question": " "}),
                ("ask", {"question": QUESTION, "where": ["year"]}),
                ("get_document", {"id": "nobody"}),
                ("search", {"question": QUESTION, "k": 0}),
                ("ask", {}),
            ]
        ]

    (empty, filters, unknown, too_few, missing), _ = in_memory(tiny_index, tiny_clara, talk)
    assert empty.endswith("the question is empty; ask something")
    assert "the filter 'year' cannot be read" in filters
    assert "has no document 'nobody': list the ids it has" in unknown
    assert too_few.endswith(
        "the argument k does not fit: Input should be greater than or equal to 1"
    )
    assert missing.endswith("the argument question does not fit: Field required")


def test_a_model_that_cannot_be_loaded_is_said_and_tried_again(tiny_clara, tiny_index):
    tries = []

    def load():
        tries.append(1)
        if len(tries) == 1:
            raise ModelError("the base is not here; fetch it")
        return tiny_clara

    async def main():
        async with Client(make_server(tiny_index, load)) as client:
            failed = await client.call_tool("search", {"question": QUESTION})
            return sentence(failed), await client.call_tool("search", {"question": QUESTION})

    said, found = anyio.run(main)
    assert said.endswith("the base is not here; fetch it")
    assert found.structured_content["passages"]


def test_the_server_answers_while_the_model_works(tiny_clara, tiny_index):
    listed = threading.Event()

    def load():
        # Would wait forever if the event loop waited for it.
        assert listed.wait(200)
        return tiny_clara

    async def main():
        async with (
            Client(make_server(tiny_index, load)) as client,
            anyio.create_task_group() as group,
        ):
            answers = []

            async def ask():
                answers.append(await client.call_tool("ask", {"question": QUESTION}))

            for _ in range(3):
                group.start_soon(ask)
            await client.call_tool("list_documents", {})
            listed.set()
        return answers

    answers = anyio.run(main)
    assert len({answer.structured_content["answer"] for answer in answers}) == 1


def test_an_answer_nobody_waits_for_is_not_written_to_its_end(tiny_clara, tiny_index):
    asked, given_up, written = threading.Event(), threading.Event(), []

    class Slow(type(tiny_clara)):
        """Starts to write only when the caller has hung up."""

        def stream(self, question, index, **settings):
            started = super().stream(question, index, **settings)
            asked.set()
            assert given_up.wait(200)
            written.append(started)
            return started

    slow = Slow(tiny_clara.model, tiny_clara.tokenizer, tiny_clara.card, tiny_clara.latent_spec)

    async def main():
        async with Client(make_server(tiny_index, lambda: slow)) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "ask", {"question": QUESTION})
                await anyio.to_thread.run_sync(asked.wait, 200)
                group.cancel_scope.cancel()
                given_up.set()
            return await client.call_tool("search", {"question": QUESTION})

    assert anyio.run(main).structured_content["passages"]
    (stream,) = written
    whole = tiny_clara.ask(QUESTION, tiny_index).usage.completion_tokens
    assert stream.answer.usage.completion_tokens < whole


def test_an_added_document_is_found_and_a_known_one_replaced(tiny_clara, index_path, tmp_path):
    path = shutil.copytree(index_path, tmp_path / "own.idx")
    note = {"text": "Baikal freezes in January.", "title": "Ice", "metadata": {"year": 2024}}

    async def talk(client):
        steps = [
            await client.call_tool("add_document", arguments)
            for arguments in (note, note, {"text": "Another.", "id": "train"})
        ]
        found = await client.call_tool("search", {"question": QUESTION, "where": ["year=2024"]})
        empty = await client.call_tool("add_document", {"text": " "})
        return [step.structured_content for step in steps], found, sentence(empty)

    with LatentIndex.open(path) as index:
        (steps, found, empty), _ = in_memory(index, tiny_clara, talk, writable=True)
        assert [step["change"] for step in steps] == ["added", "unchanged", "updated"]
        assert steps[0]["id"] == steps[1]["id"]
        assert found.structured_content["passages"][0]["text"] == note["text"]
        assert empty.endswith("the text is empty; give the document some")
        assert index.get("train").text == "Another."


# -- the command ----------------------------------------------------------------------------------


def command(*arguments):
    return [sys.executable, "-m", "openclara", "mcp", *map(str, arguments)]


def test_the_command_serves_over_pipes(index_path, tmp_path):
    started = command(index_path)
    log = tmp_path / "stderr.txt"

    async def main():
        from mcp.client.stdio import stdio_client

        parameters = StdioServerParameters(
            command=started[0], args=started[1:], env=dict(os.environ)
        )
        with log.open("w") as stderr:
            async with Client(stdio_client(parameters, errlog=stderr)) as client:
                assert {tool.name for tool in (await client.list_tools()).tools} == READING
                answered = await client.call_tool("ask", {"question": QUESTION, "k": 2})
                failed = await client.call_tool("get_document", {"id": "nobody"})
                return answered, sentence(failed), client.server_info.name

    answered, said, name = anyio.run(main)
    assert answered.structured_content["answer"]
    assert len(answered.structured_content["passages"]) == 2
    assert "has no document 'nobody'" in said
    assert name == "openclara"
    logged = log.read_text()
    assert "loading" in logged
    assert QUESTION not in logged


def test_standard_output_holds_nothing_but_the_protocol(index_path):
    def message(number, method, **parameters):
        return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": parameters})

    hello = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    lines = [
        message(1, "initialize", **hello),
        json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        message(2, "tools/call", name="search", arguments={"question": QUESTION}),
    ]
    with subprocess.Popen(
        command(index_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as server:  # fmt: skip
        server.stdin.write("\n".join(lines) + "\n")
        server.stdin.flush()
        replies = [json.loads(server.stdout.readline()) for _ in range(2)]
        rest, _ = server.communicate(timeout=200)
    assert [reply["id"] for reply in replies] == [1, 2]
    assert replies[1]["result"]["structuredContent"]["passages"]
    assert rest == ""
    assert server.returncode == 0


@contextlib.contextmanager
def serving(*arguments):
    """The address of a server over HTTP, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        command(*arguments, "--transport", "http", "--port", port),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for _ in range(2000):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert server.poll() is None, server.communicate()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp", server
    finally:
        server.kill()
        server.communicate()


def test_the_command_serves_over_http_on_this_machine_only(tiny_model, tmp_path):
    with serving(tmp_path / "new.idx", "--write", "--model", tiny_model) as (address, server):

        async def main():
            async with Client(address) as client:
                added = await client.call_tool("add_document", {"text": "York.", "id": "york"})
                found = await client.call_tool("search", {"question": QUESTION})
                return added.structured_content, found.structured_content

        added, found = anyio.run(main)
        assert added == {"id": "york", "change": "added"}
        assert [passage["text"] for passage in found["passages"]] == ["York."]
        # A page of another host that resolves to this machine is turned away.
        foreign = httpx.post(address, headers={"Host": "evil.example"}, json={})
        assert foreign.status_code == 421
        port = address.rpartition(":")[2].partition("/")[0]
        taken = subprocess.run(
            command(tmp_path / "new.idx", "--transport", "http", "--port", port),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert taken.returncode == 1
        assert taken.stderr.startswith(f"error: cannot listen at 127.0.0.1:{port}")
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=200)
    assert out == ""
    assert "Traceback" not in err
    assert server.returncode == 0


def test_other_addresses_are_wrong_usage(cli_usage):
    assert cli_usage(["mcp", "my.idx", "--transport", "http", "--host", "0.0.0.0"]) == 2


@pytest.fixture
def cli_usage():
    from openclara.cli.app import run

    return run
