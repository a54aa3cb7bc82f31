"""The sentence task for a pretrained chat model: write one sentence that contains a given word.

    python -m dschat.example.sentences --output_dir DIR

DIR/train.jsonl and DIR/test.jsonl hold chat prompts (`messages`) and their `word`; no word is in
both. `sentence_check` says whether a response is right, so that no reward model is needed.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dschat.errors import UserError, closed_pipe_ends_quietly
from dschat.runtime.files import write_jsonl

INSTRUCTION = 'Write one sentence that contains the word "{word}".'

NOUNS = """
river clock bread winter guitar bridge candle doctor island mirror garden window mountain ocean
forest village castle harbor desert valley meadow canyon glacier waterfall lake beach cave hill
street market station airport library museum theater hospital school church temple palace tower
farm barn kitchen bedroom bathroom attic cellar garage balcony hallway staircase roof chimney door
wall fence gate path road highway tunnel railway train bus truck bicycle motorcycle airplane
helicopter rocket ship boat canoe ferry submarine anchor sail engine wheel brake pedal ladder hammer
saw drill nail screw wrench shovel rake axe rope chain bucket broom brush sponge soap towel blanket
pillow mattress lamp bulb battery cable plug switch camera telescope microscope compass map globe
newspaper magazine novel poem letter envelope stamp pencil pen eraser ruler notebook calendar desk
chair table sofa shelf drawer cabinet carpet curtain vase painting statue piano violin drum flute
trumpet cello harp whistle bell radio television telephone computer keyboard printer robot
satellite kite balloon puzzle doll puppet swing slide sandbox ball racket helmet glove scarf hat
coat jacket sweater shirt dress skirt belt button zipper shoe boot sandal sock ring necklace
bracelet earring crown umbrella backpack suitcase wallet purse coin key lock safe treasure
apple banana orange lemon cherry peach pear plum grape strawberry blueberry melon pineapple coconut
mango tomato potato carrot onion garlic pepper cabbage lettuce spinach pumpkin mushroom bean corn
rice wheat flour sugar salt honey butter cheese milk cream egg soup salad sandwich pizza noodle
pancake cookie cake pie chocolate candy coffee tea juice wine plate bowl cup spoon fork knife
kettle oven stove refrigerator freezer dog cat horse cow pig sheep goat donkey rabbit mouse squirrel
hedgehog fox wolf bear deer moose lion tiger leopard elephant giraffe zebra monkey gorilla camel
kangaroo koala panda penguin seal whale dolphin shark salmon octopus crab lobster turtle frog snake
lizard crocodile eagle owl parrot crow swan duck goose chicken turkey peacock butterfly bee ant
spider beetle dragonfly snail worm oak pine willow maple bamboo cactus rose tulip daisy sunflower
lily orchid ivy moss fern leaf branch root seed flower grass rain snow storm thunder lightning
rainbow cloud fog wind sunrise sunset moon star planet comet sun shadow fire smoke ash stone sand
mud clay crystal diamond gold silver copper iron glass paper wood cotton wool silk leather
teacher student farmer baker butcher carpenter plumber electrician painter sculptor musician
singer dancer actor writer poet journalist lawyer judge soldier sailor pilot captain nurse dentist
scientist engineer gardener fisherman hunter chef waiter tailor barber king queen prince princess
knight wizard giant pirate detective neighbor stranger grandmother grandfather brother sister uncle
cousin baby twin friend birthday wedding holiday parade concert festival picnic journey race
"""

HELD_OUT = 200
"""How many of the words are never seen in training."""


def split_words() -> tuple[list[str], list[str]]:
    """The words to train on and those held out, the same for every seed."""
    words = sorted(set(NOUNS.split()))
    random.Random("words").shuffle(words)
    return words[HELD_OUT:], words[:HELD_OUT]


def make_row(word: str) -> dict[str, Any]:
    """A data row: the prompt's one message, and the word for the check."""
    content = INSTRUCTION.format(word=word)
    return {"messages": [{"role": "user", "content": content}], "word": word}


def train_rows(seed: int) -> Iterator[dict[str, Any]]:
    """An endless stream of rows: all training words, shuffled anew each time round."""
    words = split_words()[0]
    rng = random.Random(f"{seed} train")
    while True:
        rng.shuffle(words)
        yield from map(make_row, words)


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m dschat.example.sentences",
        description="Write prompts that ask for one sentence with a given word.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="fixes the order of the words")
    parser.add_argument("--train_size", type=int, default=256, help="rows of train.jsonl")
    parser.add_argument("--test_size", type=int, default=200, help="rows of test.jsonl")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Write the data; returns the exit code."""
    args = build_parser().parse_args(argv)
    held_out = split_words()[1]
    try:
        if args.train_size < 1 or not 1 <= args.test_size <= len(held_out):
            raise UserError(
                f"--train_size {args.train_size}, --test_size {args.test_size}: expected 1 or "
                f"more, and at most the {len(held_out)} held-out words to test with"
            )
        rows = train_rows(args.seed)
        write_jsonl(args.output_dir / "train.jsonl", (next(rows) for _ in range(args.train_size)))
        write_jsonl(args.output_dir / "test.jsonl", map(make_row, held_out[: args.test_size]))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.train_size} prompts to train on, {args.test_size} with other words to test")
    return 0


if __name__ == "__main__":
    with closed_pipe_ends_quietly():
        sys.exit(main())
