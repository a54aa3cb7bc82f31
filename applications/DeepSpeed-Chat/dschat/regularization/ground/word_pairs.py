"""Pairs of English words by how they are related, to see what a metric takes for near."""

from __future__ import annotations

import itertools


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(left, right) for left, right in (pair.split("/") for pair in text.split())]


SYNONYMS = _pairs(
    "big/large small/little fast/quick begin/start end/finish buy/purchase help/assist "
    "happy/glad sad/unhappy angry/mad smart/clever rich/wealthy sick/ill car/automobile "
    "child/kid house/home job/work road/street shop/store stone/rock picture/image "
    "answer/reply ask/question talk/speak look/see listen/hear shout/yell choose/select "
    "correct/right error/mistake wrong/incorrect hard/difficult easy/simple strange/odd "
    "quiet/silent close/shut keep/retain get/obtain give/provide show/display make/create "
    "fix/repair break/smash jump/leap walk/stroll run/sprint think/believe want/desire "
    "need/require like/enjoy hate/dislike fear/dread idea/thought goal/aim result/outcome "
    "country/nation city/town money/cash gift/present doctor/physician lawyer/attorney "
    "boss/manager friend/companion enemy/foe battle/fight illness/disease"
)
OPPOSITES = _pairs(
    "good/bad big/small hot/cold fast/slow high/low light/dark open/closed old/young "
    "old/new happy/sad rich/poor strong/weak hard/soft easy/difficult early/late near/far "
    "long/short wide/narrow thick/thin heavy/light full/empty clean/dirty wet/dry true/false "
    "right/wrong left/right up/down in/out on/off over/under above/below before/after "
    "first/last begin/end start/stop win/lose buy/sell give/take push/pull love/hate "
    "live/die come/go rise/fall accept/reject allow/forbid increase/decrease always/never "
    "all/none more/less many/few everything/nothing yes/no day/night summer/winter "
    "north/south east/west man/woman boy/girl king/queen father/mother brother/sister "
    "war/peace success/failure truth/lie friend/enemy question/answer"
)
_NUMBERS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"),
    *("hundred", "thousand", "million", "billion"),
]
_DIGITS = [str(digit) for digit in range(10)]
NUMBERS = [
    *itertools.pairwise(_NUMBERS),
    *itertools.pairwise(_DIGITS),
    *zip(_DIGITS, _NUMBERS, strict=False),
]
WORDS = ["cat", "good", "seven", "Paris", "run", "doctor", "because", "blue", "water", "not"]
"""Whose neighbours are shown."""
