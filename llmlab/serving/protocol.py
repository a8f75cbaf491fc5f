"""The wire format: what a client of OpenAI's HTTP interface sends, read strictly, and what it gets back.

    POST /v1/completions         {"model": "m", "prompt": "Once", "max_tokens": 20}   -> choices[0].text
    POST /v1/chat/completions    {"model": "m", "messages": [{"role": "user", ...}]}  -> choices[0].message.content
    either with "stream": true   server-sent events, `data: {...}` a line, and at last `data: [DONE]`

Nothing here knows of sockets or of the engine's steps. What a request asks for and this server does not do is an error
that names it: an answer that ignores half of a question would be silently wrong.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmlab.serving.requests import Request

Ids = list[int]
NEUTRAL: dict[str, tuple[Any, ...]] = {  # fields that are taken only where they ask for nothing
    "best_of": (None, 1), "echo": (None, False), "frequency_penalty": (None, 0), "function_call": (None, "none"),
    "functions": (None, []), "logit_bias": (None, {}), "logprobs": (None, False), "metadata": (None, {}),
    "modalities": (None, ["text"]), "presence_penalty": (None, 0), "response_format": (None, {"type": "text"}),
    "store": (None, False), "suffix": (None, ""), "tool_choice": (None, "none"), "tools": (None, []),
    "top_logprobs": (None, 0),
}  # fmt: skip
SHARED = {"model", "max_tokens", "temperature", "top_p", "stop", "seed", "n", "stream", "stream_options", "user"}
FIELDS = {"completions": SHARED | {"prompt"}, "chat": SHARED | {"messages", "max_completion_tokens"}}
ROLES = ("system", "user", "assistant")
MOST_STOPS = 4


class ApiError(Exception):
    """What is told to a client in OpenAI's shape: an HTTP status and a body that names the parameter."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.kind = status, message, param, code, kind

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may ask for."""

    body_bytes: int = 1 << 20
    concurrent: int = 64  # answers under way, each choice counted
    new_tokens: int = 1024  # of one answer
    choices: int = 8  # of one request


@dataclass(frozen=True)
class Served:
    """What the server offers. encode, decode: text to ids and back.  chat: messages to ids; None: no chat here.

    ends: tokens after which an answer is over, and which are not part of its text.
    """

    name: str
    encode: Callable[[str], Ids]
    decode: Callable[[Ids], str]
    max_seq: int
    chat: Callable[[list[dict[str, str]]], Ids] | None = None
    ends: tuple[int, ...] = ()


@dataclass(frozen=True)
class Asked:
    """A request that was understood: one engine request for each choice, prompts first, then their n answers."""

    kind: str  # "completions" or "chat"
    requests: tuple[Request, ...]
    n: int  # answers to each prompt
    stops: tuple[str, ...]
    stream: bool
    usage_in_stream: bool


# --- reading ----------------------------------------------------------------------------------------------------------


def read_request(kind: str, body: bytes, served: Served, limits: Limits) -> Asked:
    """Understand a request's body, or raise ApiError with what is wrong and where."""
    fields = _object(body)
    for name in sorted(fields.keys() - FIELDS[kind] - NEUTRAL.keys()):
        raise ApiError(400, f"{name[:80]!r} is no argument of this server", name[:80], "unknown_parameter")
    for name in sorted(fields.keys() & NEUTRAL.keys()):
        if not any(fields[name] == v and isinstance(fields[name], bool) == isinstance(v, bool) for v in NEUTRAL[name]):
            raise ApiError(400, f"{name} is not supported here; leave it out", name, "unsupported_parameter")
    _model(fields, served)
    if _given(fields, "user") is not None and not isinstance(fields["user"], str):
        raise _wrong("user", "a string", fields["user"])
    prompts = _chat(fields, served) if kind == "chat" else _prompts(fields, served)
    n = _whole(fields, "n", 1, 1, limits.choices)
    if n * len(prompts) > limits.choices:
        raise ApiError(400, f"at most {limits.choices} answers in one request, got {n} x {len(prompts)}", "n")
    stream, options = _flag(fields, "stream"), _given(fields, "stream_options")
    if options is not None and (not stream or not isinstance(options, dict) or options.keys() - {"include_usage"}):
        raise ApiError(400, "stream_options wants stream to be true and include_usage alone", "stream_options")
    temperature, top_p = _real(fields, "temperature", 0, 2), _real(fields, "top_p", 0, 1, above=True)
    seed = _whole(fields, "seed", None, 0, 2**63 - 1 - limits.choices)
    first = secrets.randbelow(2**31) if seed is None else seed
    requests = []
    for prompt in prompts:
        new = _new_tokens(kind, fields, len(prompt), served, limits)
        for i in range(n):
            requests.append(
                Request(prompt, new, temperature=temperature, top_p=top_p, stop=served.ends, seed=first + i)
            )
    return Asked(kind, tuple(requests), n, _stops(fields), stream, bool(options and _flag(options, "include_usage")))


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError too
        raise ApiError(400, f"the body wants to be JSON in UTF-8: {str(error)[:200]}", code="invalid_json") from None
    if not isinstance(found, dict):
        raise ApiError(400, f"the body wants to be a JSON object, got a {type(found).__name__}", code="invalid_json")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _model(fields: Mapping[str, Any], served: Served) -> None:
    if not isinstance(name := _given(fields, "model"), str):
        raise _wrong("model", f"a name, {served.name!r}", name)
    if name != served.name:
        raise ApiError(404, f"the model {name[:80]!r} is not here, {served.name!r} is", "model", "model_not_found")


def _prompts(fields: Mapping[str, Any], served: Served) -> list[Ids]:
    """A text, several, token ids, or several lists of them."""
    given = _given(fields, "prompt")
    several = isinstance(given, list) and bool(given) and isinstance(given[0], (str, list))
    prompts = given if several else [given]
    found = []
    for prompt in prompts:
        if isinstance(prompt, str):
            found.append(_encoded(served.encode, prompt, "prompt"))
        elif isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
            found.append(prompt)
        else:
            raise _wrong("prompt", "a text or a list of token ids, or a list of such", prompt)
    if not all(found):
        raise ApiError(400, "prompt wants at least one token", "prompt")
    return found


def _chat(fields: Mapping[str, Any], served: Served) -> list[Ids]:
    if served.chat is None:
        message = f"{served.name!r} was not taught to chat: ask /v1/completions"
        raise ApiError(400, message, "messages", "no_chat_template")
    messages = _given(fields, "messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "a list of messages", messages)
    turns = []
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.keys() - {"role", "content", "name"}:
            raise _wrong(f"messages[{i}]", "an object with role and content", message)
        if message.get("role") not in ROLES:
            raise _wrong(f"messages[{i}].role", f"one of {', '.join(ROLES)}", message.get("role"))
        turns.append({"role": message["role"], "content": _content(message.get("content"), f"messages[{i}].content")})
    return [_encoded(served.chat, turns, "messages")]


def _content(content: Any, where: str) -> str:
    """A text, or OpenAI's list of parts, of which only texts can be read here."""
    if isinstance(content, list) and content:
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise ApiError(400, f"{where} wants parts of type text: this model reads nothing else", where)
        parts = [part.get("text") for part in content]
        content = "".join(parts) if all(isinstance(part, str) for part in parts) else None
    if not isinstance(content, str):
        raise _wrong(where, "a text", content)
    return content


def _encoded(encode: Callable[[Any], Ids], text: Any, param: str) -> Ids:
    try:
        return encode(text)
    except ValueError as error:  # a character that the tokenizer does not know, half of a surrogate pair
        raise ApiError(400, f"{param} cannot be turned into tokens: {str(error)[:200]}", param) from None


def _new_tokens(kind: str, fields: Mapping[str, Any], prompt: int, served: Served, limits: Limits) -> int:
    room = served.max_seq - prompt
    if room < 1:
        message = f"the prompt has {prompt} tokens, and the model reads {served.max_seq} with the answer"
        raise ApiError(400, message, "messages" if kind == "chat" else "prompt", "context_length_exceeded")
    names = [name for name in ("max_completion_tokens", "max_tokens") if _given(fields, name) is not None]
    if len(names) > 1:
        raise ApiError(400, "max_tokens and max_completion_tokens are one: give one of them", "max_tokens")
    if not names:
        return min(room, limits.new_tokens, 16 if kind == "completions" else limits.new_tokens)
    new = _whole(fields, names[0], None, 1, limits.new_tokens)
    assert new is not None
    if new > room:
        message = f"the model reads {served.max_seq} tokens, got {prompt} in the prompt and {new} to come"
        raise ApiError(400, message, names[0], "context_length_exceeded")
    return new


def _stops(fields: Mapping[str, Any]) -> tuple[str, ...]:
    given = _given(fields, "stop")
    stops = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise _wrong("stop", f"a text or a list of up to {MOST_STOPS}, none of them empty", given)
    return tuple(stops)


def _given(fields: Mapping[str, Any], name: str) -> Any:
    return fields.get(name)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and type(value) is not bool:
        raise _wrong(name, "true or false", value)
    return bool(value)


def _whole(fields: Mapping[str, Any], name: str, default: int | None, least: int, most: int) -> Any:
    value = default if fields.get(name) is None else fields[name]
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise _wrong(name, f"a whole number from {least} to {most}", value)
    return value


def _real(fields: Mapping[str, Any], name: str, least: float, most: float, above: bool = False) -> float:
    value = 1.0 if fields.get(name) is None else fields[name]
    if type(value) not in (int, float) or not least <= value <= most or above and value == least:
        raise _wrong(
            name, f"a number {'above' if above else 'from'} {least} {'and at most' if above else 'to'} {most}", value
        )
    return float(value)


def _wrong(name: str, wanted: str, value: Any) -> ApiError:
    try:
        said = json.dumps(value)
    except ValueError:  # a number of more digits than Python writes
        said = f"a {type(value).__name__}"
    said = said if len(said) <= 80 else said[:77] + "..."
    return ApiError(400, f"{name} wants {wanted}; got {said}", name, "invalid_value")


# --- text, as it comes ------------------------------------------------------------------------------------------------


class Writing:
    """One choice's text while its tokens come in: what may be shown already, and whether a stop has been met.

    A token may be a piece of a character, and the text so far the beginning of a stop: both are held back.
    """

    def __init__(self, decode: Callable[[Ids], str], stops: Sequence[str], ends: Sequence[int]):
        self.decode, self.stops, self.ends = decode, stops, ends
        self.ids: Ids = []
        self.n_token = 0
        self.shown = ""
        self.reason: str | None = None

    def add(self, token: int, reason: str | None) -> str:
        """Take a token in; give the text that can be shown since. `reason`: the engine's, on the last token."""
        self.n_token += 1
        if token not in self.ends:
            self.ids.append(token)
        text = self.decode(self.ids)
        found = min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=None)
        if found is not None:
            self.reason, text = "stop", text[:found]
        elif reason is not None:
            self.reason = reason
        else:
            text = text.rstrip("\ufffd")  # what comes next may complete the character
            text = text[: len(text) - self._held(text)]
        new, self.shown = text[len(self.shown) :], max(text, self.shown, key=len)
        return new

    def _held(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop."""
        longest = max(map(len, self.stops), default=1) - 1
        return next(
            (n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in self.stops)), 0
        )


# --- writing ----------------------------------------------------------------------------------------------------------


class Response:
    """The bodies of one answer: whole, or its chunks."""

    def __init__(self, asked: Asked, served: Served):
        chat, short = asked.kind == "chat", "chatcmpl" if asked.kind == "chat" else "cmpl"
        self.asked, self.chat = asked, chat
        self.head = {"id": f"{short}-{secrets.token_hex(12)}", "created": int(time.time()), "model": served.name}
        self.object = "chat.completion" if chat else "text_completion"

    def whole(self, writings: Sequence[Writing]) -> dict[str, Any]:
        choices = [
            {"index": i, "finish_reason": w.reason, "logprobs": None}
            | ({"message": {"role": "assistant", "content": w.shown}} if self.chat else {"text": w.shown})
            for i, w in enumerate(writings)
        ]
        return {**self.head, "object": self.object, "choices": choices, "usage": self.usage(writings)}

    def first(self, index: int) -> dict[str, Any] | None:
        """What precedes a choice's text in a stream: who speaks, where that is said at all."""
        return self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None) if self.chat else None

    def part(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        """Some text of a choice; with the reason it is the last."""
        if not self.chat:
            return self._chunk(index, {"text": text}, reason)
        return self._chunk(index, {"delta": {"content": text} if text or not reason else {}}, reason)

    def last(self, writings: Sequence[Writing]) -> dict[str, Any]:
        """What a stream ends with, if its usage was asked for."""
        return {**self.head, "object": self._chunks, "choices": [], "usage": self.usage(writings)}

    def usage(self, writings: Sequence[Writing]) -> dict[str, int]:
        """Count tokens; a prompt that several choices answer counts once."""
        asked = sum(len(request.tokens) for request in self.asked.requests[:: self.asked.n])
        new = sum(w.n_token for w in writings)
        return {"prompt_tokens": asked, "completion_tokens": new, "total_tokens": asked + new}

    @property
    def _chunks(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(self, index: int, what: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": index, **what, "finish_reason": reason, "logprobs": None}
        return {**self.head, "object": self._chunks, "choices": [choice]}


def event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
