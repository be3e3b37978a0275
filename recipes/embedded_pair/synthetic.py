"""Text from grammars of our own: stories, sums in words, records, tool calls, small functions, short answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

from sources import chat

NAMES = [
    "Mia",
    "Ben",
    "Tom",
    "Anna",
    "Leo",
    "Sara",
    "Max",
    "Lily",
    "Sam",
    "Ella",
    "Finn",
    "Ruby",
    "Noah",
    "Ivy",
    "Jack",
    "Zoe",
    "Omar",
    "Nina",
    "Paul",
    "Kate",
]
ANIMALS = [
    "dog",
    "cat",
    "rabbit",
    "fox",
    "bear",
    "bird",
    "mouse",
    "frog",
    "horse",
    "duck",
    "turtle",
    "owl",
    "pony",
    "squirrel",
    "lamb",
    "hedgehog",
]
PLACES = [
    "a small village",
    "a green forest",
    "a house by the sea",
    "a quiet town",
    "a big farm",
    "a tall tower",
    "a garden full of flowers",
    "a cottage near the river",
    "a busy city",
]
THINGS = [
    "ball",
    "kite",
    "book",
    "key",
    "lamp",
    "map",
    "boat",
    "drum",
    "hat",
    "bell",
    "box",
    "stone",
    "coin",
    "flute",
    "ring",
    "basket",
]
COLOURS = ["red", "blue", "green", "yellow", "white", "black", "brown", "golden", "silver", "orange"]
ADJECTIVES = ["little", "brave", "kind", "curious", "happy", "clever", "shy", "old", "young", "gentle", "lazy", "proud"]
FEELINGS = ["happy", "sad", "proud", "scared", "excited", "tired", "surprised", "glad", "worried", "calm"]
FRUITS = [
    "apples",
    "pears",
    "plums",
    "oranges",
    "books",
    "coins",
    "shells",
    "marbles",
    "cards",
    "stamps",
    "pencils",
    "eggs",
]
FUNCTIONS = {
    "add": ("Add two numbers x and y.", "x, y", "return x + y"),
    "subtract": ("Subtract y from x.", "x, y", "return x - y"),
    "multiply": ("Multiply two numbers.", "x, y", "return x * y"),
    "maximum": (
        "Return the largest item of a list.",
        "items",
        "best = items[0]\n    for item in items:\n        if item > best:\n            best = item\n    return best",
    ),
    "minimum": (
        "Return the smallest item of a list.",
        "items",
        "best = items[0]\n    for item in items:\n        if item < best:\n            best = item\n    return best",
    ),
    "total": (
        "Return the sum of a list of numbers.",
        "numbers",
        "result = 0\n    for number in numbers:\n        result += number\n    return result",
    ),
    "count_vowels": (
        "Count the vowels in a string.",
        "text",
        "count = 0\n    for letter in text:\n        if letter in 'aeiou':\n            count += 1\n    return count",
    ),
    "reverse": ("Return the string reversed.", "text", "return text[::-1]"),
    "is_even": ("Return True if the number is even.", "number", "return number % 2 == 0"),
    "is_palindrome": ("Check if a string is a palindrome.", "text", "return text == text[::-1]"),
    "factorial": (
        "Return the factorial of n.",
        "n",
        "result = 1\n    for i in range(1, n + 1):\n        result *= i\n    return result",
    ),
    "fibonacci": (
        "Return the n-th Fibonacci number.",
        "n",
        "a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
    ),
    "average": ("Return the mean of a list of numbers.", "numbers", "return sum(numbers) / len(numbers)"),
    "unique": ("Return the unique items of a list, sorted.", "items", "return sorted(set(items))"),
    "evens": (
        "Return the even numbers of a list.",
        "numbers",
        "result = []\n    for number in numbers:\n        if number % 2 == 0:\n            result.append(number)\n"
        "    return result",
    ),
    "words": ("Split a text into words.", "text", "return text.split()"),
    "square": ("Return the square of a number.", "x", "return x * x"),
}


def story(rng: random.Random) -> str:
    """A tiny story with a problem, a helper and an ending."""
    hero, friend = rng.sample(NAMES, 2)
    animal, thing, colour = rng.choice(ANIMALS), rng.choice(THINGS), rng.choice(COLOURS)
    adjective, place = rng.choice(ADJECTIVES), rng.choice(PLACES)
    feeling, late = rng.sample(FEELINGS, 2)
    kind = rng.choice(["girl", "boy", animal])
    opening = rng.choice(
        [
            f"Once upon a time, there was a {adjective} {kind} named {hero}. {hero} lived in {place}.",
            f"Once upon a time, in {place}, there lived a {adjective} {kind} called {hero}.",
            f"One day, a {adjective} {kind} named {hero} went for a walk near {place}.",
        ]
    )
    middle = rng.choice(
        [
            f"Every day {hero} played with a {colour} {thing}. One day the {thing} was lost. "
            f"{hero} was very {feeling}.",
            f'{hero} found a {colour} {thing} on the path. "Whose {thing} is this?" asked {hero}.',
            f"{hero} wanted to find a {colour} {thing}, but it was far away. {hero} felt {feeling}.",
        ]
    )
    helper = rng.choice(
        [
            f'Then {friend} came along. "Do not worry," said {friend}. "I will help you."',
            f'A {animal} named {friend} saw this and said, "Let us look together."',
            f"{hero} asked {friend} for help. {friend} smiled and said yes.",
        ]
    )
    search = rng.choice(
        [
            "They looked under the bed and behind the tree.",
            "They walked over the hill and across the river.",
            "They looked and looked until the sun went down.",
        ]
    )
    ending = rng.choice(
        [
            f"At last they found the {thing}. {hero} was so {late} and said thank you. "
            f"From that day on, {hero} and {friend} were best friends.",
            f"In the end, the {thing} was right there in the garden. They laughed and went home. The end.",
            f"{hero} learned that it is good to ask for help. They played together until it was time for bed.",
        ]
    )
    text = " ".join([opening, middle, helper, search, ending])
    if rng.random() < 0.35:
        return chat(
            rng.choice(
                [
                    f"Tell me a story about a {kind}.",
                    "Tell me a short story.",
                    f"Write a story about a {thing}.",
                    "Once upon a time",
                ]
            ),
            text,
        )
    return "<bos>" + text


def sums(rng: random.Random) -> str:
    """Arithmetic in words with worked steps."""
    a, b = rng.sample(NAMES, 2)
    thing = rng.choice(FRUITS)
    x, y = rng.randint(2, 40), rng.randint(2, 30)
    z = rng.randint(1, x + y - 1)
    form = rng.randrange(5)
    if form == 0:
        return chat(
            f"{a} has {x} {thing}. {b} gives {a} {y} more. Then {a} uses {z}. How many {thing} are left?",
            f"{a} starts with {x} {thing}. {x} + {y} = {x + y}. {x + y} - {z} = {x + y - z}. "
            f"The answer is {x + y - z}.",
        )
    if form == 1:
        n, p = rng.randint(2, 12), rng.randint(2, 12)
        return chat(
            f"A box holds {p} {thing}. How many {thing} are in {n} boxes?",
            f"Each box holds {p} {thing}. {n} x {p} = {n * p}. The answer is {n * p}.",
        )
    if form == 2:
        return chat(f"What is {x} + {y}?", f"{x} + {y} = {x + y}. The answer is {x + y}.")
    if form == 3:
        n, p = rng.randint(2, 12), rng.randint(2, 12)
        return chat(
            f"{a} shares {n * p} {thing} equally among {n} friends. How many does each friend get?",
            f"{n * p} / {n} = {p}. Each friend gets {p} {thing}. The answer is {p}.",
        )
    return chat(
        f"{a} is {x} years old. {b} is {y} years older. How old is {b}?",
        f"{x} + {y} = {x + y}. {b} is {x + y} years old. The answer is {x + y}.",
    )


def record(rng: random.Random) -> str:
    """A JSON record on request."""
    person = {
        "name": rng.choice(NAMES),
        "age": rng.randint(5, 90),
        "city": rng.choice(["Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Berlin", "Madrid", "Quito"]),
        "pet": rng.choice(ANIMALS),
        "colour": rng.choice(COLOURS),
        "active": rng.random() < 0.5,
    }
    keys = rng.sample(list(person), rng.randint(3, 6))
    body = {k: person[k] for k in keys}
    facts = ", ".join(f"{k} {json.dumps(v)}" for k, v in body.items())
    indent = rng.choice([None, 2])
    return chat(f"Write this as JSON: {facts}.", "```json\n" + json.dumps(body, indent=indent) + "\n```")


def tool_call(rng: random.Random) -> str:
    """A declared tool and its call in Gemma 4's format."""
    city = rng.choice(["Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Berlin"])
    minutes, name = rng.randint(1, 90), rng.choice(NAMES)
    tools = {
        "get_weather": (
            "Get the weather of a city.",
            "city",
            f'city:<|"|>{city}<|"|>',
            [f"What is the weather in {city}?", f"Is it raining in {city}?"],
        ),
        "set_timer": (
            "Start a timer.",
            "minutes",
            f"minutes:{minutes}",
            [f"Set a timer for {minutes} minutes.", f"Remind me in {minutes} minutes."],
        ),
        "send_message": (
            "Send a message to a person.",
            "name",
            f'name:<|"|>{name}<|"|>',
            [f"Send a message to {name}.", f"Please write to {name}."],
        ),
    }
    tool = rng.choice(list(tools))
    about, key, argument, asks = tools[tool]
    kind = "NUMBER" if key == "minutes" else "STRING"
    declared = (
        f'<|tool>declaration:{tool}{{description:<|"|>{about}<|"|>,parameters:{{properties:{{{key}:{{type:<|"|>'
        f'{kind}<|"|>}}}},required:[<|"|>{key}<|"|>],type:<|"|>OBJECT<|"|>}}}}<tool|>'
    )
    return chat(rng.choice(asks), f"<|tool_call>call:{tool}{{{argument}}}<tool_call|>", system=declared)


def function(rng: random.Random) -> str:
    """A small function on request, from its docstring, or explained."""
    name = rng.choice(list(FUNCTIONS))
    about, arguments, body = FUNCTIONS[name]
    code = f'def {name}({arguments}):\n    """{about}"""\n    {body}'
    form = rng.randrange(3)
    if form == 0:
        ask = rng.choice(["Write a Python function. {}", "Write a function in Python that does this: {}"])
        return chat(ask.format(about), f"```python\n{code}\n```")
    if form == 1:
        return chat(f'def {name}({arguments}):\n    """ {about}\n    """\n', f"    {body}")
    return chat(f"What does this code do?\n\n```python\n{code}\n```", f"It is a function. {about}")


def opinion(rng: random.Random) -> str:
    """Small talk with a reason, in two turns."""
    topic = rng.choice(["book", "food", "colour", "season", "animal", "game", "song", "place", "day", "fruit"])
    liked = {
        "colour": rng.choice(COLOURS),
        "animal": f"the {rng.choice(ANIMALS)}",
        "place": rng.choice(PLACES),
        "season": rng.choice(["spring", "summer", "autumn", "winter"]),
        "fruit": rng.choice(FRUITS[:4]),
        "day": rng.choice(["Monday", "Friday", "Saturday", "Sunday"]),
    }.get(topic, rng.choice(["the old one", "the first one", "a simple one", "one from my childhood"]))
    reason = rng.choice(
        [
            "it makes me happy",
            "it is calm and quiet",
            "it reminds me of my family",
            "it is a lot of fun",
            "I have known it for a long time",
        ]
    )
    return chat(
        rng.choice([f"What is your favorite {topic}?", f"Which {topic} do you like best?"]),
        f"My favorite {topic} is {liked}. I like it because {reason}. What about you?",
        rng.choice(["Why do you think that?", "Why is that?", "Tell me more."]),
        f"I think so because {reason}. I like to think about it when I am {rng.choice(FEELINGS)}.",
    )


def passage(rng: random.Random) -> str:
    """A made-up passage with a question whose answer stands in it, or its one-sentence summary."""
    who, friend = rng.sample(NAMES, 2)
    animal, place = rng.choice(ANIMALS), rng.choice(PLACES)
    year, count = rng.randint(1800, 2020), rng.randint(2, 900)
    lines = [
        f"{who} opened a shop in {place} in {year}.",
        f"The shop sold {count} {rng.choice(FRUITS)} in its first month.",
        f"{friend} worked there with a {rng.choice(COLOURS)} {animal}.",
        "After some years the shop was known in the whole country.",
    ]
    text = " ".join(lines)
    if rng.random() < 0.3:
        return chat(f"Summarize this text in one sentence.\n\n{text}", lines[0])
    ask, answer = rng.choice(
        [
            (f"When did {who} open the shop?", f"{who} opened the shop in {year}."),
            ("Who worked in the shop?", f"{friend} worked in the shop."),
            ("Where was the shop?", f"The shop was in {place}."),
        ]
    )
    return chat(f"Use the passage to answer.\n\nPassage: {text}\n\nQuestion: {ask}", answer)


GRAMMARS: list[tuple[Callable[[random.Random], str], float]] = [
    (story, 0.34),
    (sums, 0.16),
    (record, 0.10),
    (tool_call, 0.08),
    (function, 0.12),
    (opinion, 0.10),
    (passage, 0.10),
]


def documents(count: int, rng: random.Random) -> Iterator[str]:
    """``count`` documents drawn from the grammars by their weights."""
    makers, weights = zip(*GRAMMARS, strict=True)
    for maker in rng.choices(makers, weights=weights, k=count):
        yield maker(rng)
