"""What a programming problem of the example is, and those whose programs read standard input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Problem:
    """A problem.

    Attributes:
        question: the task in words.
        solution: a program that passes every test.
        mistake: a program that runs and fails at least one.
        tests: pairs of an input and what is expected: standard input and output, or the list of
            the arguments and the value to return.
        difficulty: in the words of APPS.
        function: what is called; None for standard input.
        starter_code: the function's head; "" for standard input.
    """

    question: str
    solution: str
    mistake: str
    tests: tuple[tuple[Any, Any], ...]
    difficulty: Literal["introductory", "interview", "competition"] = "introductory"
    function: str | None = None
    starter_code: str = ""


STANDARD_INPUT = (
    Problem(
        "Read two integers on one line and print their sum.",
        "a, b = map(int, input().split())\nprint(a + b)\n",
        "a, b = map(int, input().split())\nprint(a - b)\n",
        (("1 2\n", "3\n"), ("-5 5\n", "0\n"), ("999999999999 1\n", "1000000000000\n")),
    ),
    Problem(
        "Read a line and print it backwards.",
        "print(input()[::-1])\n",
        "print(''.join(sorted(input())))\n",
        (("abc\n", "cba\n"), ("level\n", "level\n"), ("a b\n", "b a\n")),
    ),
    Problem(
        "Read n and then n integers on the next line. Print the largest.",
        "input()\nprint(max(map(int, input().split())))\n",
        "input()\nprint(max(input().split()))\n",
        (("3\n1 9 2\n", "9\n"), ("2\n9 10\n", "10\n"), ("3\n-4 -2 -9\n", "-2\n")),
    ),
    Problem(
        "Read n and print the numbers from 1 to n, each on a line, but Fizz for multiples of 3, "
        "Buzz for multiples of 5 and FizzBuzz for multiples of both.",
        "for i in range(1, int(input()) + 1):\n"
        "    print('Fizz' * (i % 3 == 0) + 'Buzz' * (i % 5 == 0) or i)\n",
        "for i in range(1, int(input()) + 1):\n"
        "    print('Fizz' if i % 3 == 0 else 'Buzz' if i % 5 == 0 else i)\n",
        (
            ("3\n", "1\n2\nFizz\n"),
            (
                "15\n",
                "1\n2\nFizz\n4\nBuzz\nFizz\n7\n8\nFizz\nBuzz\n11\nFizz\n13\n14\nFizzBuzz\n",
            ),
        ),
    ),
    Problem(
        "Read a line and print how many vowels (a, e, i, o, u in either case) it has.",
        "print(sum(letter in 'aeiou' for letter in input().lower()))\n",
        "print(sum(letter in 'aeiou' for letter in input()))\n",
        (("banana\n", "3\n"), ("RHYTHM\n", "0\n"), ("An Apple\n", "3\n")),
    ),
    Problem(
        "Read n and then n real numbers, one a line. Print their mean.",
        "n = int(input())\nprint(sum(float(input()) for _ in range(n)) / n)\n",
        "n = int(input())\nprint(sum(float(input()) for _ in range(n)) // n)\n",
        (("2\n1\n2\n", "1.5\n"), ("3\n1\n1\n2\n", "1.3333333333\n"), ("1\n-7.25\n", "-7.25\n")),
    ),
    Problem(
        "Read t and then t lines with an integer n >= 1 each. For each print YES if n is prime, "
        "else NO.",
        "def is_prime(n):\n"
        "    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))\n"
        "for _ in range(int(input())):\n"
        "    print('YES' if is_prime(int(input())) else 'NO')\n",
        "for _ in range(int(input())):\n    print('YES' if int(input()) % 2 else 'NO')\n",
        (
            ("4\n1\n2\n9\n97\n", "NO\nYES\nNO\nYES\n"),
            ("3\n999983\n1000000\n25\n", "YES\nNO\nNO\n"),
        ),
    ),
    Problem(
        "Read a line of brackets ()[]{} and print YES if they are balanced, else NO.",
        "pairs = {')': '(', ']': '[', '}': '{'}\n"
        "stack = []\n"
        "balanced = True\n"
        "for bracket in input():\n"
        "    if bracket not in pairs:\n"
        "        stack.append(bracket)\n"
        "    elif not stack or stack.pop() != pairs[bracket]:\n"
        "        balanced = False\n"
        "        break\n"
        "print('YES' if balanced and not stack else 'NO')\n",
        "s = input()\n"
        "print('YES' if all(s.count(a) == s.count(b) for a, b in ('()', '[]', '{}')) else 'NO')\n",
        (("([]{})\n", "YES\n"), ("([)]\n", "NO\n"), ("((\n", "NO\n"), (")(\n", "NO\n")),
        "interview",
    ),
    Problem(
        "Read a text of any number of lines. Print its words in lower case in alphabetical order, "
        "each on a line with the number of times it occurs.",
        "import sys\n"
        "from collections import Counter\n"
        "for word, count in sorted(Counter(sys.stdin.read().lower().split()).items()):\n"
        "    print(word, count)\n",
        "from collections import Counter\n"
        "for word, count in sorted(Counter(input().lower().split()).items()):\n"
        "    print(word, count)\n",
        (
            ("the cat and the dog\n", "and 1\ncat 1\ndog 1\nthe 2\n"),
            ("B a\nb\nA b\n", "a 2\nb 3\n"),
        ),
        "interview",
    ),
    Problem(
        "Read n and m, then n lines of m characters, where . is free and # is a wall. Print the "
        "least number of steps (up, down, left, right) from the upper left to the lower right "
        "corner, both of them free, or -1 if there is no way.",
        "from collections import deque\n"
        "n, m = map(int, input().split())\n"
        "grid = [input() for _ in range(n)]\n"
        "steps = {(0, 0): 0}\n"
        "queue = deque(steps)\n"
        "while queue:\n"
        "    i, j = queue.popleft()\n"
        "    for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):\n"
        "        if 0 <= a < n and 0 <= b < m and grid[a][b] == '.' and (a, b) not in steps:\n"
        "            steps[a, b] = steps[i, j] + 1\n"
        "            queue.append((a, b))\n"
        "print(steps.get((n - 1, m - 1), -1))\n",
        "n, m = map(int, input().split())\nprint(n + m - 2)\n",
        (
            ("2 2\n..\n..\n", "2\n"),
            ("3 3\n.#.\n.#.\n...\n", "4\n"),
            ("3 3\n.#.\n##.\n...\n", "-1\n"),
            ("3 5\n...#.\n.#.#.\n.#...\n", "6\n"),
            ("4 4\n...#\n##.#\n...#\n.##.\n", "-1\n"),
            ("5 3\n...\n##.\n...\n.##\n...\n", "10\n"),
        ),
        "competition",
    ),
    Problem(
        "Read n and k on one line and then n coin values on the next; each may be used any number "
        "of times. Print in how many ways they add up to k (the order does not count), modulo "
        "1000000007.",
        "n, k = map(int, input().split())\n"
        "ways = [1] + [0] * k\n"
        "for coin in map(int, input().split()):\n"
        "    for amount in range(coin, k + 1):\n"
        "        ways[amount] = (ways[amount] + ways[amount - coin]) % 1000000007\n"
        "print(ways[k])\n",
        "n, k = map(int, input().split())\n"
        "coins = list(map(int, input().split()))\n"
        "ways = [1] + [0] * k\n"
        "for amount in range(1, k + 1):\n"
        "    ways[amount] = sum(ways[amount - c] for c in coins if c <= amount) % 1000000007\n"
        "print(ways[k])\n",
        (
            ("3 5\n1 2 5\n", "4\n"),
            ("1 3\n2\n", "0\n"),
            ("2 4\n1 2\n", "3\n"),
            ("6 100\n1 5 10 25 50 100\n", "293\n"),
        ),
        "competition",
    ),
    Problem(
        "Read n and print the n-th Fibonacci number (the first two are 1), whatever its length.",
        "a, b = 0, 1\nfor _ in range(int(input())):\n    a, b = b, a + b\nprint(a)\n",
        "print(round(((1 + 5**0.5) / 2) ** int(input()) / 5**0.5))\n",
        (
            ("1\n", "1\n"),
            ("10\n", "55\n"),
            ("100\n", "354224848179261915075\n"),
        ),
        "interview",
    ),
)
