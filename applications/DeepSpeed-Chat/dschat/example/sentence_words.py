"""The words of the sentence task: common English nouns for things, places, animals and people."""

from __future__ import annotations

import random

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
