"""The HTTP endpoint: the standard client works against it, what is wrong is told clearly, and nothing leaks."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request as HTTPRequest
from urllib.request import urlopen

import openai
import pytest
import torch

import llmlab as lab
from llmlab.commands import main
from llmlab.serving.protocol import Limits, Writing
from llmlab.serving.server import Server

CONFIG = lab.Config(vocab_size=258, d_model=16, n_layer=2, n_head=2, max_seq=96, dtype=torch.float64)
TOKENIZER = lab.text.BPE.train(["hello"], vocab_size=258, specials=["<|im_start|>", "<|im_end|>"])
LIMITS = Limits(body_bytes=20_000, concurrent=40, new_tokens=80, choices=4)


def make_engine(**options):
    model = lab.Transformer(CONFIG)
    with torch.no_grad():
        model.embedding.token.weight.mul_(30)  # untrained weights are small, and say the same of everything
    return lab.serving.Engine(model, TOKENIZER, kv_blocks=options.pop("kv_blocks", 96), block=8, **options)


def alone(prompt, new, **choices):
    """What one process answers that serves nobody else."""
    ids = TOKENIZER.encode(prompt)
    tokens = lab.generate(make_engine().paged.model, ids, max_new_tokens=new, **choices)[len(ids) :].tolist()
    end = TOKENIZER.specials["<|im_end|>"]
    return TOKENIZER.decode([token for token in tokens[: tokens.index(end) if end in tokens else None]])


@pytest.fixture(scope="module")
def server():
    with Server(make_engine(), "tiny", limits=LIMITS) as server:
        yield server
        settled(server)


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def settled(server, seconds=20.0):
    """All blocks are free again, which may take a moment: the engine hears of a hang-up between two steps."""
    end = time.monotonic() + seconds
    while (server.driver.engine.busy or server.under_way) and time.monotonic() < end:
        time.sleep(0.01)
    stats = server.driver.engine.stats
    assert (stats.blocks_used, stats.running, stats.waiting, server.under_way) == (0, 0, 0, 0)
    assert not server.driver._of


# --- the standard client ----------------------------------------------------------------------------------------------


def test_the_standard_client_gets_what_generate_gives(client) -> None:
    reply = client.completions.create(model="tiny", prompt="Once upon", max_tokens=12, temperature=0)
    assert reply.choices[0].text == alone("Once upon", 12)
    assert reply.choices[0].finish_reason == "length"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (9, 12, 21)
    assert reply.object == "text_completion" and reply.model == "tiny" and reply.id.startswith("cmpl-")


def test_a_stream_is_the_same_text_in_pieces(client) -> None:
    asked = {"model": "tiny", "prompt": "Once upon", "max_tokens": 20, "temperature": 0}
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    *parts, last = chunks
    assert "".join(part.choices[0].text for part in parts) == alone("Once upon", 20)
    assert [part.choices[0].finish_reason for part in parts] == [None] * (len(parts) - 1) + ["length"]
    assert len(parts) > 3 and last.choices == [] and last.usage.completion_tokens == 20


def test_a_sampled_answer_repeats_with_its_seed(client) -> None:
    asked = {"model": "tiny", "prompt": "hello", "max_tokens": 10, "temperature": 0.8, "top_p": 0.9, "seed": 5}
    first, again = (client.completions.create(**asked).choices[0].text for _ in range(2))
    assert first == again == alone("hello", 10, temperature=0.8, top_p=0.9, seed=5)
    assert client.completions.create(**{**asked, "seed": 6}).choices[0].text != first


def test_n_answers_are_those_of_seeds_in_a_row(client) -> None:
    asked = {"model": "tiny", "prompt": "hello", "max_tokens": 8, "temperature": 1.0}
    three = client.completions.create(**asked, n=3, seed=5)
    one = [client.completions.create(**asked, seed=5 + i).choices[0].text for i in range(3)]
    assert [choice.text for choice in three.choices] == one
    assert (three.usage.prompt_tokens, three.usage.completion_tokens) == (5, 24)


def test_several_prompts_and_token_ids_are_prompts(client) -> None:
    asked = {"model": "tiny", "max_tokens": 5, "temperature": 0}
    reply = client.completions.create(**asked, prompt=["hello", "Once"])
    assert [choice.text for choice in reply.choices] == [alone("hello", 5), alone("Once", 5)]
    assert reply.usage.prompt_tokens == 9
    ids = client.completions.create(**asked, prompt=TOKENIZER.encode("hello"))
    assert ids.choices[0].text == alone("hello", 5)


def test_a_chat_is_completed_whole_and_in_a_stream(client) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    asked = {"model": "tiny", "messages": messages, "max_completion_tokens": 9, "temperature": 0}
    reply = client.chat.completions.create(**asked)
    assert reply.choices[0].message.role == "assistant" and reply.object == "chat.completion"
    read = lab.text.chat_prompt(TOKENIZER, [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}])
    assert reply.usage.prompt_tokens == len(read)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == reply.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_ends_the_text_before_it_and_frees_the_blocks(client, server, stream: bool) -> None:
    whole = alone("hello", 40)
    stop = whole[7:10]
    asked = {"model": "tiny", "prompt": "hello", "max_tokens": 40, "temperature": 0, "stop": ["\0\0", stop]}
    if stream:
        parts = list(client.completions.create(**asked, stream=True))
        text, reason = "".join(part.choices[0].text for part in parts), parts[-1].choices[0].finish_reason
    else:
        choice = client.completions.create(**asked).choices[0]
        text, reason = choice.text, choice.finish_reason
    assert text == whole[: whole.index(stop)] and reason == "stop"
    settled(server)


def test_models_are_listed(client) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="not here"):
        client.models.retrieve("other")


# --- what is refused --------------------------------------------------------------------------------------------------

GOOD = {"model": "tiny", "prompt": "hi", "max_tokens": 2}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
BAD = [
    ("completions", b"{", 400, None), ("completions", b"[1]", 400, None), ("completions", b"\xff\xfe", 400, None),
    ("completions", b'{"model": NaN}', 400, None), ("completions", b"[" * 9000, 400, None),
    ("completions", {"prompt": "hi"}, 400, "model"), ("completions", {**GOOD, "model": "gpt-4"}, 404, "model"),
    ("completions", {"model": "tiny"}, 400, "prompt"), ("completions", {**GOOD, "prompt": ""}, 400, "prompt"),
    ("completions", {**GOOD, "prompt": 7}, 400, "prompt"), ("completions", {**GOOD, "prompt": [True]}, 400, "prompt"),
    ("completions", {**GOOD, "prompt": [1, 9999]}, 400, None), ("completions", {**GOOD, "prompt": []}, 400, "prompt"),
    ("completions", {**GOOD, "prompt": "\ud800"}, 400, "prompt"),
    ("completions", {**GOOD, "prompt": "x" * 96}, 400, "prompt"),
    ("completions", {**GOOD, "prompt": "x" * 60, "max_tokens": 40}, 400, "max_tokens"),
    ("completions", {**GOOD, "max_tokens": 0}, 400, "max_tokens"),
    ("completions", {**GOOD, "max_tokens": 10**400}, 400, "max_tokens"),
    ("completions", {**GOOD, "max_tokens": "5"}, 400, "max_tokens"),
    ("completions", {**GOOD, "max_tokens": True}, 400, "max_tokens"),
    ("completions", {**GOOD, "temperature": 3}, 400, "temperature"),
    ("completions", {**GOOD, "temperature": "hot"}, 400, "temperature"),
    ("completions", {**GOOD, "top_p": 0}, 400, "top_p"), ("completions", {**GOOD, "seed": -1}, 400, "seed"),
    ("completions", {**GOOD, "n": 5}, 400, "n"), ("completions", {**GOOD, "prompt": ["a"] * 3, "n": 2}, 400, "n"),
    ("completions", {**GOOD, "stop": [""]}, 400, "stop"), ("completions", {**GOOD, "stop": ["a"] * 5}, 400, "stop"),
    ("completions", {**GOOD, "stream": "yes"}, 400, "stream"),
    ("completions", {**GOOD, "stream_options": {"include_usage": True}}, 400, "stream_options"),
    ("completions", {**GOOD, "logprobs": 0}, 400, "logprobs"), ("completions", {**GOOD, "echo": True}, 400, "echo"),
    ("completions", {**GOOD, "presence_penalty": 0.5}, 400, "presence_penalty"),
    ("completions", {**GOOD, "tmperature": 1}, 400, "tmperature"), ("completions", {**GOOD, "user": 1}, 400, "user"),
    ("chat/completions", {"model": "tiny"}, 400, "messages"),
    ("chat/completions", {**CHAT, "messages": []}, 400, "messages"),
    ("chat/completions", {**CHAT, "messages": ["hi"]}, 400, "messages[0]"),
    ("chat/completions", {**CHAT, "messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0].role"),
    ("chat/completions", {**CHAT, "messages": [{"role": "user"}]}, 400, "messages[0].content"),
    ("chat/completions", {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400,
     "messages[0].content"),
    ("chat/completions", {**CHAT, "tools": [{}]}, 400, "tools"),
    ("chat/completions", {**CHAT, "max_tokens": 2, "max_completion_tokens": 2}, 400, "max_tokens"),
    ("nothing", GOOD, 404, None), ("completions", b"x" * 20_001, 413, None), ("completions", b"x" * 60_000, 413, None),
]  # fmt: skip


def post(url, path, body, headers=()):
    """Status and body of a request that a client library would not send."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = HTTPRequest(f"{url}/{path}", data, {"Content-Type": "application/json", **dict(headers)})
    try:
        with urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.parametrize(("path", "body", "status", "param"), BAD, ids=range(len(BAD)))
def test_a_bad_request_is_told_what_is_wrong_in_openais_shape(server, path, body, status, param) -> None:
    got, reply = post(server.url, path, body)
    assert got == status
    assert reply["error"].keys() == {"message", "type", "param", "code"}
    assert reply["error"]["param"] == param and len(reply["error"]["message"]) < 500


def test_good_requests_are_not_refused(server) -> None:
    neutral = {"presence_penalty": 0, "logit_bias": {}, "logprobs": None, "best_of": 1, "user": "me", "echo": False}
    assert post(server.url, "completions", {**GOOD, **neutral})[0] == 200


def test_a_body_that_says_no_size_is_limited_too(server) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (5000, b"x" * 5000) for _ in range(5)) + b"0\r\n\r\n"
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: "
    assert b" 413 " in raw(server, head + b"chunked\r\n\r\n" + body).split(b"\r\n")[0]


def test_what_is_no_http_hurts_nobody(server) -> None:
    post_ = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    for sent in (b"\0\1\2\3\r\n\r\n", b"GET\r\n\r\n", post_ + b"-5\r\n\r\n", post_ + b"99999999999\r\n\r\n"):
        raw(server, sent)
    assert post(server.url, "completions", GOOD)[0] == 200


def test_half_a_body_leaves_nothing_that_waits_for_the_other_half() -> None:
    with Server(make_engine(), "tiny") as server:
        head = (
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500"
        )
        for _ in range(3):
            with socket.create_connection((server.host, server.port), timeout=5) as wire:
                wire.sendall(head + b"\r\n\r\n{")
                time.sleep(0.1)  # until the body is waited for
        end = time.monotonic() + 10
        while len(waiting := asyncio.all_tasks(server._loop)) > 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(waiting) == 1  # the one that listens


def raw(server, sent):
    """What the server says to these bytes, until it hangs up or a second is over."""
    with socket.create_connection((server.host, server.port), timeout=1) as wire:
        got = b""
        try:
            wire.sendall(sent)
            while part := wire.recv(65536):
                got += part
        except (TimeoutError, ConnectionError):
            pass
        return got


def test_a_web_page_cannot_make_a_browser_ask(server) -> None:
    assert post(server.url, "completions", GOOD, {"Origin": "https://evil.example"})[0] == 403
    assert post(server.url, "completions", GOOD, {"Host": "evil.example"})[0] == 403
    assert post(server.url, "completions", GOOD, {"Content-Type": "text/plain"})[0] == 415
    assert post(server.url, "completions", GOOD, {"Origin": f"http://localhost:{server.port}"})[0] == 200


def test_more_at_once_than_the_limit_are_told_to_come_again(server) -> None:
    with Server(make_engine(), "tiny", limits=Limits(concurrent=2, choices=4)) as small:
        status, reply = post(small.url, "completions", {**GOOD, "n": 3})
        assert (status, reply["error"]["type"]) == (429, "rate_limit_error")
        assert post(small.url, "completions", {**GOOD, "n": 2})[0] == 200


# --- where it listens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_nothing_listens_beyond_this_machine_unless_asked_in_so_many_words(host, capsys) -> None:
    with pytest.raises(ValueError, match="open_to_the_network=True"):
        Server(make_engine(), host=host)
    assert main(["serve", "smollm2-135m", "--host", host]) == 2
    assert "--open-to-the-network" in capsys.readouterr().err


def test_asked_in_so_many_words_it_listens_everywhere() -> None:
    with Server(make_engine(), host="0.0.0.0", open_to_the_network=True) as everywhere:
        assert post(f"http://127.0.0.1:{everywhere.port}/v1", "completions", {**GOOD, "model": "model"})[0] == 200


def test_a_closed_server_leaves_no_thread_and_no_socket() -> None:
    before = set(threading.enumerate())
    server = Server(make_engine(), "tiny")
    assert post(server.url, "completions", GOOD)[0] == 200
    server.close()
    server.close()
    assert not {t for t in threading.enumerate() if t.name.startswith("llmlab")} - before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), timeout=5)


def test_an_engine_that_fails_says_so_to_all() -> None:
    engine = make_engine()
    with Server(engine, "tiny") as server:
        with torch.no_grad():
            engine.paged.model.norm.weight.fill_(torch.nan)
        for _ in range(2):
            status, reply = post(server.url, "completions", GOOD)
            assert status == 500 and "the engine has failed" in reply["error"]["message"]


def test_the_command_serves_a_model_and_ends_when_interrupted(monkeypatch, capsys) -> None:
    engine = make_engine()
    monkeypatch.setattr("llmlab.model.pretrained.load_pretrained", lambda name: (engine.paged.model, TOKENIZER))
    seen = []

    def interrupt(seconds):
        url = capsys.readouterr().out.split(" at ")[1].split()[0]
        seen.append(post(url, "completions", {**GOOD, "model": "tiny"})[0])
        raise KeyboardInterrupt

    monkeypatch.setattr("llmlab.commands.serving.time.sleep", interrupt)
    assert main(["serve", "somewhere", "--name", "tiny", "--port", "0", "--kv-blocks", "64"]) == 0
    assert seen == [200]


def test_help_needs_neither_torch_nor_tornado() -> None:
    code = "import sys, llmlab.commands as c\ntry: c.main(['serve', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'tornado'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- under load -------------------------------------------------------------------------------------------------------


def test_64_clients_of_whom_half_hang_up_leave_no_block_and_change_no_answer() -> None:
    prompts = [f"{'Once upon a time ' if i % 3 else ''}user {i}" for i in range(64)]
    wanted = {i: alone(prompts[i], 16) for i in range(0, 64, 2)}
    limits = Limits(body_bytes=20_000, concurrent=64, new_tokens=80)
    with Server(make_engine(kv_blocks=60, max_running=16), "tiny", limits=limits) as server:  # too few for all at once
        begun = threading.Barrier(64)

        def ask(i):
            begun.wait()
            body = {"model": "tiny", "prompt": prompts[i], "max_tokens": 16, "temperature": 0, "stream": i % 4 > 1}
            if i % 16 == 1:
                return raw(server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n" + b"\0" * 50 + b"\r\n\r\n")
            if i % 16 == 3:
                return post(server.url, "completions", b"x" * 30_000)[0]
            if i % 2:
                return hang_up(server, {**body, "max_tokens": 60}, after=i % 5)
            if not body["stream"]:
                return post(server.url, "completions", body)[1]["choices"][0]["text"]
            return "".join(part["choices"][0]["text"] for part in streamed(server, body))

        with ThreadPoolExecutor(64) as clients:
            answers = list(clients.map(ask, range(64)))
        settled(server)
        assert {i: answers[i] for i in wanted} == wanted
        assert all(answers[i] == 413 for i in range(3, 64, 16))
        assert server.driver.engine.stats.computed_tokens > 0 and not server.driver.failure
        reasons = [reply.reason for reply in server.driver.engine.finished]
        assert reasons.count("cancelled") >= 8  # those that hung up before they were answered


def streamed(server, body):
    """The events of a stream."""
    request = HTTPRequest(f"{server.url}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as reply:
        events = [line[6:] for line in reply.read().decode().split("\n\n") if line]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def hang_up(server, body, after):
    """Ask, read so many bytes of the answer, and go."""
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"  # noqa: E501
    with socket.create_connection((server.host, server.port), timeout=60) as wire:
        wire.sendall(head.encode() + data)
        if body["stream"]:
            wire.recv(1 + 40 * after)
    return None


# --- text in pieces ---------------------------------------------------------------------------------------------------


def written(tokens, stops, ends=()):
    writing = Writing(lambda ids: bytes(ids).decode("utf-8", "replace"), stops, ends)
    pieces = [writing.add(token, "length" if i == len(tokens) - 1 else None) for i, token in enumerate(tokens)]
    return pieces, writing


def test_half_a_character_waits_for_its_other_half() -> None:
    pieces, _ = written("aé€b".encode(), [])
    assert pieces == ["a", "", "é", "", "", "€", "b"]


def test_what_may_be_a_stop_is_held_back_until_it_is_none() -> None:
    pieces, writing = written(b"abcabd", ["abd"])
    assert pieces == ["", "", "abc", "", "", ""] and writing.reason == "stop" and writing.shown == "abc"
    pieces, writing = written(b"abca", ["abd"])
    assert "".join(pieces) == "abca" and writing.reason == "length"
