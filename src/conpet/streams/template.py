"""How an instruction and an input make a prompt: a text with two places, and the answer cue last.

    {instruction}
    {input}
    Output:

Places are filled by plain replacement, so that a brace in the data stays a brace.
"""

from __future__ import annotations

import re

INSTRUCTION, INPUT = "{instruction}", "{input}"
PLAIN = "{instruction}\n{input}\nOutput:"
"""The template of data whose card has none."""

INPUT_ONLY = "{input}\nOutput:"
"""The same for data without instructions."""


def template_problem(template: str) -> str | None:
    """What is wrong with a template, in the form of an error text; None if it is in order.

    It holds {input} once, {instruction} at most once and in front of it, no other brace, and words
    behind the input: where these end the answer begins.
    """
    own = template.replace(INSTRUCTION, "").replace(INPUT, "")
    cue = template.partition(INPUT)[2]
    if strange := re.search(r"\{\w*\}|[{}]", own):
        problem = f"holds {strange[0]!r}, which stands for nothing"
    elif template.count(INPUT) != 1:
        problem = f"holds {INPUT} {template.count(INPUT)} times"
    elif template.count(INSTRUCTION) > 1:
        problem = f"holds {INSTRUCTION} {template.count(INSTRUCTION)} times"
    elif INSTRUCTION in cue:
        problem = f"has {INSTRUCTION} behind {INPUT}"
    elif not cue.strip():
        problem = f"has no answer cue: nothing stands behind {INPUT}"
    else:
        return None
    return (
        f"the template {template!r} {problem}; allowed: {INPUT} once, {INSTRUCTION} at most once "
        f"and in front of it, and a cue behind it where the answer begins, e.g. {PLAIN!r}"
    )
