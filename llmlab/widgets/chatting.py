"""A model to talk to: a prompt, the controls of sampling, and its text as it comes, with its speed."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as W
from IPython.display import display

from llmlab.arguments import flag, string
from llmlab.generation import Stopwatch, as_text, stream
from llmlab.text import chat_prompt
from llmlab.widgets.sampling import TEMPERATURES, TOP_K, TOP_P
from llmlab.widgets.sliders import choice

LENGTHS = [10, 20, 40, 80, 160, 320]
STYLE, WIDE = {"description_width": "10em"}, W.Layout(width="34em", max_width="100%")


class Chat:
    """Ask a model and watch it answer: `Chat(model, tokenizer)` shows itself; `say()` is what its button does.

    prompt: what stands in the box at first; it is answered at once.  template: put it into the chat template; None: if
    the tokenizer has one. Every control is at hand, such as `chat.temperature.value = 1.5`; `answer` is the last
    answer, `speed` what it took.
    """

    def __init__(self, model: Any, tokenizer: Any, prompt: str = "", *, template: bool | None = None, tokens: int = 40):
        self.model, self.tokenizer = model, tokenizer
        its = "<|im_end|>" in getattr(tokenizer, "specials", {})
        self.template = its if template is None else flag("Chat", "template", template)
        self.prompt = W.Textarea(string("Chat", "prompt", prompt), description="you say", style=STYLE, layout=WIDE)
        self.temperature = choice("temperature", [0.0, *TEMPERATURES], 0.0)
        self.top_k = choice("top-k", TOP_K, "all")
        self.top_p = choice("top-p", TOP_P, 1.0)
        self.tokens = choice("new tokens, at most", sorted({*LENGTHS, tokens}), tokens)
        self.seed = W.IntText(0, description="seed", style=STYLE, layout=WIDE)
        self.button = W.Button(description="answer")
        self.view, self.said = W.HTML(), W.HTML()
        self.answer, self.speed = "", ""
        self.button.on_click(self._asked)
        parts = self.temperature, self.top_k, self.top_p, self.tokens, self.seed, self.button, self.view, self.said
        self.box = W.VBox([self.prompt, *parts])
        if prompt:
            self.say()
        live = self.box._repr_mimebundle_()["application/vnd.jupyter.widget-view+json"]
        kept = f"{prompt!r}\n    {self.answer!r}" if prompt else "a box to write into, sliders, and a button: answer"
        display({"application/vnd.jupyter.widget-view+json": live, "text/plain": kept}, raw=True)

    def say(self) -> str:
        """Answer what is in the box, piece by piece, by the controls as they stand; what does not fit is told below."""
        self.answer, self.view.value = "", ""
        self.button.disabled = True
        try:
            ids = self._ids()
            watch = Stopwatch(stream(self.model, ids, **self._controls(), end=self._end()), len(ids))
            for piece in as_text(watch, self.tokenizer):
                self.answer += piece
                self.view.value = f'<p style="white-space:pre-wrap;max-width:56em">{html.escape(self.answer)}</p>'
            self.speed = str(watch)
            self.said.value = f'<p role="status">{html.escape(self.speed)}</p>'
        except ValueError as error:  # a prompt too long, or empty: whoever wrote it can mend it
            self.said.value = f'<p role="alert">{html.escape(str(error))}</p>'
        finally:
            self.button.disabled = False
        return self.answer

    def _asked(self, button: W.Button) -> None:
        self.say()

    def _ids(self) -> list[int]:
        text = self.prompt.value
        return chat_prompt(self.tokenizer, text) if self.template else self.tokenizer.encode(text)

    def _end(self) -> int | None:
        return self.tokenizer.specials["<|im_end|>"] if self.template else None

    def _controls(self) -> dict[str, Any]:
        k = self.top_k.value
        return {
            "max_new_tokens": self.tokens.value,
            "temperature": self.temperature.value,
            "top_k": k if isinstance(k, int) else None,
            "top_p": self.top_p.value,
            "seed": self.seed.value,
        }
