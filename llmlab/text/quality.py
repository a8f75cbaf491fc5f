"""Rules that say what speaks against keeping a document, and the words that carry grammar, not content.

The limits are those given for English web text by Rae et al. 2021 (arXiv 2112.11446, appendix A.1.1, "Quality
Filtering" and, for repetition, table A1). Other text needs others: a docstring is short, code is full of symbols,
Chinese has no blanks between words. So each can be changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from llmlab.arguments import choice, function, instance, numbers, real, string, whole

from .checks import checked_list

# Articles, pronouns, prepositions, conjunctions, auxiliaries, particles and the like. A classifier or a search index
# does without them; a language model keeps them: they are half of what it has to say.
STOP_WORDS = {
    "en": frozenset(
        """
        a an the this that these those
        i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself
        we us our ours ourselves they them their theirs themselves who whom whose which what someone something
        and or but nor so yet if because although though while whereas unless until since than whether as
        about above across after against along among around at before behind below beneath beside between beyond by
        down during for from in inside into near of off on onto out outside over through to toward under up upon via
        with within without
        am is are was were be been being have has had having do does did doing done
        can could may might must shall should will would ought
        not no there here then when where why how again also just only too very such same own other another any some
        all both each every either neither few more most much many less least
        isn't aren't wasn't weren't hasn't haven't hadn't doesn't don't didn't can't cannot couldn't won't wouldn't
        shouldn't mustn't it's i'm you're we're they're i've you've we've they've i'll you'll we'll they'll
        """.split()
    ),
    "zh": frozenset(
        """
        的 地 得 了 着 过 吗 呢 吧 啊 呀 嘛 么 们 等 之 其 所 者
        我 你 您 他 她 它 我们 你们 他们 她们 它们 咱们 自己 大家 这 那 哪 这个 那个 这些 那些 这里 那里 这样 那样
        什么 怎么 怎样 为什么 谁 多少 几
        和 与 及 跟 同 或 或者 而 而且 并 并且 但 但是 可是 不过 然而 虽然 因为 所以 因此 如果 要是 即使 尽管 只要
        只有 还是 以及 于是 则 若
        在 从 到 向 往 对 对于 关于 由 由于 被 把 将 给 为 为了 以 按 按照 根据 通过 比 用 于 自 至
        是 有 没 没有 不 不是 会 能 能够 可以 可 应 应该 要 想 让 使
        很 太 更 最 非常 都 也 又 还 再 就 才 只 便 却 已 已经 正 正在 曾 曾经 一 一个 一些 上 下 里 中 内 外 前 后 时
        """.split()
    ),
}

BULLETS = ("-", "*", "•", "‣", "–", "·")
ELLIPSES = ("...", "…")


@dataclass(frozen=True)
class Limits:
    """What a document must keep to; see the module for where the numbers come from.

    words: least and most.  word_length: mean characters per word, least and most.  symbols: marks # and ... per word.
    bullets, ellipses: share of lines that begin or end so.  alphabetic: share of words with a letter, at least.
    required: of `common`, how many different ones occur.  repeated_lines: share of lines that repeat an earlier one.
    top_pair: share of the characters taken by the most frequent pair of words.
    """

    words: tuple[int, int] = (50, 100_000)
    word_length: tuple[float, float] = (3, 10)
    symbols: float = 0.1
    bullets: float = 0.9
    ellipses: float = 0.3
    alphabetic: float = 0.8
    required: int = 2
    common: Collection[str] = ("the", "be", "to", "of", "and", "that", "have", "with")
    repeated_lines: float = 0.3
    top_pair: float = 0.2

    def __post_init__(self) -> None:
        for name in ("words", "word_length"):
            bounds = numbers("Limits", name, getattr(self, name))
            if len(bounds) != 2 or not bounds[0] <= bounds[1]:
                raise ValueError(f"Limits wants {name} as (least, most); got {getattr(self, name)!r}")
        for name in ("symbols", "bullets", "ellipses", "alphabetic", "repeated_lines", "top_pair"):
            real("Limits", name, getattr(self, name), least=0, infinite=True)
        whole("Limits", "required", self.required, least=0)
        checked_list("limits.common", self.common, "[word]")


def faults(text: str, limits: Limits = Limits(), cut: Callable[[str], list[str]] = str.split) -> list[str]:  # noqa: B008
    """Return every rule that a document breaks, in words; none means keep it.

    cut: how text becomes words; for Chinese `words` or a `Segmenter`, and other limits: `CHINESE`.
    """
    string("faults", "text", text)
    instance("faults", "limits", limits, Limits, "lab.text.Limits(...)")
    found = function("faults", "cut", cut, "text")(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        return ["no words"]
    n = len(found)
    least, most = limits.words
    shortest, longest = limits.word_length
    length = sum(map(len, found)) / n
    symbols = (text.count("#") + sum(text.count(mark) for mark in ELLIPSES)) / n
    bullets = _share(line.startswith(BULLETS) for line in lines)
    ellipses = _share(line.endswith(ELLIPSES) for line in lines)
    alphabetic = _share(any(map(str.isalpha, word)) for word in found)
    common = len(set(limits.common).intersection(word.lower() for word in found))
    repeated = 1 - len(set(lines)) / len(lines)
    pair = _top_pair(found)
    rules = [
        (least <= n <= most, f"{n} words, wanted {least} to {most}"),
        (shortest <= length <= longest, f"{length:.1f} characters per word, wanted {shortest} to {longest}"),
        (symbols <= limits.symbols, f"{symbols:.2f} symbols per word, wanted at most {limits.symbols}"),
        (bullets <= limits.bullets, f"{bullets:.0%} of lines are bullets, wanted at most {limits.bullets:.0%}"),
        (ellipses <= limits.ellipses, f"{ellipses:.0%} of lines break off, wanted at most {limits.ellipses:.0%}"),
        (alphabetic >= limits.alphabetic, f"{alphabetic:.0%} of words have a letter, wanted {limits.alphabetic:.0%}"),
        (common >= limits.required, f"{common} of the commonest words, wanted {limits.required}"),
        (
            repeated <= limits.repeated_lines,
            f"{repeated:.0%} of lines repeat, wanted at most {limits.repeated_lines:.0%}",
        ),
        (pair <= limits.top_pair, f"{pair:.0%} is one pair of words, wanted at most {limits.top_pair:.0%}"),
    ]
    return [message for kept, message in rules if not kept]


# For text cut by `words` or a Segmenter: a word is a character or two, a mark stands for itself.
CHINESE = Limits(word_length=(1, 4), alphabetic=0.6, common=("的", "了", "是", "在", "和", "有", "不", "我"))


def content_words(found: Iterable[str], language: str = "en") -> list[str]:
    """Leave out the stop words of a language, "en" or "zh", whatever their case."""
    choice("content_words", "language", language, sorted(STOP_WORDS))
    found = checked_list("found", found, "words(text)")
    return [word for word in found if word.lower() not in STOP_WORDS[language]]


def _share(hits: Iterable[bool]) -> float:
    hits = list(hits)
    return sum(hits) / len(hits)


def _top_pair(found: list[str]) -> float:
    """Return the share of all characters that the most frequent pair of neighbouring words takes, if it repeats."""
    if len(found) < 2:
        return 0.0
    pair, n = Counter(zip(found, found[1:], strict=False)).most_common(1)[0]
    return n * len("".join(pair)) / len("".join(found)) if n > 1 else 0.0
