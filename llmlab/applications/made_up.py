"""A parallel corpus made by a grammar, for where no real one has been fetched. It is artificial, and said to be so.

    English  verb the [kind] thing [place] .          Open the old file in the folder.
    Chinese  [place] verb [kind] thing 。              在文件夹中打开旧文件。

A sentence is drawn from a few verbs, things and places, so the translation is always right and the language is tiny.
The order of the words differs, the article has no counterpart, and Chinese has no blanks: that is to be learned.
"""

from __future__ import annotations

from itertools import product

VERBS = {
    "Open": "打开", "Close": "关闭", "Save": "保存", "Delete": "删除", "Find": "查找", "Rename": "重命名",
    "Copy": "复制", "Print": "打印", "Share": "分享", "Check": "检查",
}  # fmt: skip
THINGS = {
    "file": "文件", "picture": "图片", "table": "表格", "program": "程序", "message": "消息", "password": "密码",
    "report": "报告", "list": "列表", "key": "密钥", "notebook": "笔记本",
}  # fmt: skip
KINDS = {"": "", "new": "新", "old": "旧", "first": "第一个", "last": "最后一个", "empty": "空"}
PLACES = {
    "": "", "in the folder": "在文件夹中", "on the server": "在服务器上", "on this computer": "在这台计算机上",
    "in the archive": "在存档中", "in the browser": "在浏览器中",
}  # fmt: skip


def made_up_pairs() -> list[tuple[str, str]]:
    """Return all sentences of the grammar with their translations, 3,600 pairs, always in the same order."""
    pairs = []
    for verb, kind, thing, place in product(VERBS, KINDS, THINGS, PLACES):
        english = " ".join(word for word in (verb, "the", kind, thing, place) if word)
        pairs.append((f"{english}.", f"{PLACES[place]}{VERBS[verb]}{KINDS[kind]}{THINGS[thing]}。"))
    return pairs
