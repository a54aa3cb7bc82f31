"""Problems whose programs define a function or a class `Solution` with a method."""

from __future__ import annotations

from dschat.example.programs_of_input import Problem

CALLS = (
    Problem(
        "Write a function `double(n)` that returns twice the integer n.",
        "def double(n):\n    return 2 * n\n",
        "def double(n):\n    return n ** 2\n",
        (([2], 4), ([0], 0), ([-3], -6)),
        function="double",
        starter_code="def double(n):\n    ",
    ),
    Problem(
        "Write a function `is_leap(year)` that says whether a year of the Gregorian calendar is a "
        "leap year.",
        "def is_leap(year):\n    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)\n",
        "def is_leap(year):\n    return year % 4 == 0\n",
        (([2024], True), ([1900], False), ([2000], True), ([2023], False)),
        function="is_leap",
        starter_code="def is_leap(year):\n    ",
    ),
    Problem(
        "Write a function `initials(name)` that returns the capital initials of a name, each "
        "followed by a full stop.",
        "def initials(name):\n    return ''.join(f'{word[0].upper()}.' for word in name.split())\n",
        "def initials(name):\n    return ''.join(f'{word[0]}.' for word in name.split())\n",
        ((["Ada Lovelace"], "A.L."), (["grace brewster hopper"], "G.B.H."), ([""], "")),
        function="initials",
        starter_code="def initials(name):\n    ",
    ),
    Problem(
        "Write a function `running_mean(values)` that returns the list of the means of the first "
        "1, 2, ... values.",
        "def running_mean(values):\n"
        "    return [total / n for n, total in enumerate(accumulate(values), 1)]\n",
        "def running_mean(values):\n    return [sum(values) / max(1, len(values))] * len(values)\n",
        (([[1, 2, 3]], [1.0, 1.5, 2.0]), ([[1, 0, 0]], [1.0, 0.5, 0.333333333]), ([[]], [])),
        function="running_mean",
        starter_code="def running_mean(values):\n    ",
    ),
    Problem(
        "Given a list of integers and a target, return the indices of the two numbers that add up "
        "to the target, the smaller index first. There is exactly one such pair.",
        "class Solution:\n"
        "    def two_sum(self, numbers: List[int], target: int) -> List[int]:\n"
        "        seen = {}\n"
        "        for i, number in enumerate(numbers):\n"
        "            if target - number in seen:\n"
        "                return [seen[target - number], i]\n"
        "            seen[number] = i\n",
        "class Solution:\n"
        "    def two_sum(self, numbers: List[int], target: int) -> List[int]:\n"
        "        for i in range(len(numbers) - 1):\n"
        "            if numbers[i] + numbers[i + 1] == target:\n"
        "                return [i, i + 1]\n",
        (([[2, 7, 11, 15], 9], [0, 1]), ([[3, 2, 4], 6], [1, 2]), ([[3, 5, 3], 6], [0, 2])),
        "interview",
        "two_sum",
        "class Solution:\n    def two_sum(self, numbers: List[int], target: int) -> List[int]:\n",
    ),
    Problem(
        "Return the text compressed by writing each run of equal characters as the character and "
        "the run's length.",
        "class Solution:\n"
        "    def compress(self, text: str) -> str:\n"
        "        runs = itertools.groupby(text)\n"
        "        return ''.join(f'{letter}{len(list(run))}' for letter, run in runs)\n",
        "class Solution:\n"
        "    def compress(self, text: str) -> str:\n"
        "        return ''.join(f'{letter}{text.count(letter)}' for letter in sorted(set(text)))\n",
        ((["aaab"], "a3b1"), (["abba"], "a1b2a1"), ([""], "")),
        "interview",
        "compress",
        "class Solution:\n    def compress(self, text: str) -> str:\n",
    ),
    Problem(
        "Return the matrix turned by 90 degrees clockwise.",
        "class Solution:\n    def turn(self, matrix):\n        return list(zip(*matrix[::-1]))\n",
        "class Solution:\n    def turn(self, matrix):\n        return list(zip(*matrix))\n",
        (
            ([[[1, 2], [3, 4]]], [[3, 1], [4, 2]]),
            ([[[1, 2, 3]]], [[1], [2], [3]]),
            ([[[1, 2, 3], [4, 5, 6]]], [[4, 1], [5, 2], [6, 3]]),
        ),
        "interview",
        "turn",
        "class Solution:\n    def turn(self, matrix: List[List[int]]) -> List[List[int]]:\n",
    ),
    Problem(
        "Return a dictionary from each word of a text to its number of letters.",
        "def lengths(text):\n    return {word: len(word) for word in text.split()}\n",
        "def lengths(text):\n    return {word: len(text) for word in text.split()}\n",
        ((["an owl"], {"an": 2, "owl": 3}), ([""], {}), (["o o"], {"o": 1})),
        function="lengths",
        starter_code="def lengths(text):\n    ",
    ),
    Problem(
        "Return the length of the longest strictly increasing subsequence of a list.",
        "import bisect\n"
        "class Solution:\n"
        "    def longest(self, numbers: List[int]) -> int:\n"
        "        ends = []\n"
        "        for number in numbers:\n"
        "            place = bisect.bisect_left(ends, number)\n"
        "            ends[place : place + 1] = [number]\n"
        "        return len(ends)\n",
        "class Solution:\n"
        "    def longest(self, numbers: List[int]) -> int:\n"
        "        return len(set(numbers))\n",
        (
            ([[10, 9, 2, 5, 3, 7, 101, 18]], 4),
            ([[7, 7, 7]], 1),
            ([[]], 0),
            ([[3, 2, 1]], 1),
            ([[0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15]], 6),
        ),
        "competition",
        "longest",
        "class Solution:\n    def longest(self, numbers: List[int]) -> int:\n",
    ),
    Problem(
        "Return the least number of insertions, deletions and replacements of a letter that turn "
        "one word into another.",
        "class Solution:\n"
        "    def distance(self, a: str, b: str) -> int:\n"
        "        @lru_cache(None)\n"
        "        def rest(i, j):\n"
        "            if i == len(a) or j == len(b):\n"
        "                return len(a) - i + len(b) - j\n"
        "            if a[i] == b[j]:\n"
        "                return rest(i + 1, j + 1)\n"
        "            return 1 + min(rest(i + 1, j), rest(i, j + 1), rest(i + 1, j + 1))\n"
        "        return rest(0, 0)\n",
        "class Solution:\n"
        "    def distance(self, a: str, b: str) -> int:\n"
        "        return abs(len(a) - len(b)) + sum(x != y for x, y in zip(a, b))\n",
        (
            (["kitten", "sitting"], 3),
            (["horse", "ros"], 3),
            (["", "abc"], 3),
            (["same", "same"], 0),
            (["intention", "execution"], 5),
        ),
        "competition",
        "distance",
        "class Solution:\n    def distance(self, a: str, b: str) -> int:\n",
    ),
    Problem(
        "Return how many ways there are to place n queens on a board of n times n squares so that "
        "none attacks another.",
        "def queens(n):\n"
        "    def place(row, columns, rising, falling):\n"
        "        if row == n:\n"
        "            return 1\n"
        "        return sum(\n"
        "            place(row + 1, columns | {c}, rising | {row + c}, falling | {row - c})\n"
        "            for c in range(n)\n"
        "            if c not in columns and row + c not in rising and row - c not in falling\n"
        "        )\n"
        "    return place(0, frozenset(), frozenset(), frozenset())\n",
        "def queens(n):\n    return math.factorial(n)\n",
        (([1], 1), ([2], 0), ([4], 2), ([6], 4), ([7], 40)),
        "competition",
        "queens",
        "def queens(n):\n    ",
    ),
    Problem(
        "Return the shortest distances from node 0 to every node of a graph; -1 where there is no "
        "path. The graph is given by its number of nodes and its directed edges "
        "[from, to, length], the lengths not negative.",
        "class Solution:\n"
        "    def distances(self, nodes: int, edges: List[List[int]]) -> List[int]:\n"
        "        neighbours = defaultdict(list)\n"
        "        for a, b, length in edges:\n"
        "            neighbours[a].append((b, length))\n"
        "        found = [-1] * nodes\n"
        "        queue = [(0, 0)]\n"
        "        while queue:\n"
        "            distance, node = heappop(queue)\n"
        "            if found[node] >= 0:\n"
        "                continue\n"
        "            found[node] = distance\n"
        "            for other, length in neighbours[node]:\n"
        "                heappush(queue, (distance + length, other))\n"
        "        return found\n",
        "class Solution:\n"
        "    def distances(self, nodes: int, edges: List[List[int]]) -> List[int]:\n"
        "        found = [0] + [-1] * (nodes - 1)\n"
        "        for a, b, length in edges:\n"
        "            if found[a] >= 0 and found[b] < 0:\n"
        "                found[b] = found[a] + length\n"
        "        return found\n",
        (
            ([3, [[0, 1, 5], [0, 2, 9], [1, 2, 1]]], [0, 5, 6]),
            ([2, []], [0, -1]),
            ([4, [[2, 3, 1], [0, 2, 4], [0, 3, 7], [3, 0, 1]]], [0, -1, 4, 5]),
        ),
        "competition",
        "distances",
        "class Solution:\n"
        "    def distances(self, nodes: int, edges: List[List[int]]) -> List[int]:\n",
    ),
)
