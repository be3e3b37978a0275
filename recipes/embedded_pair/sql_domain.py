"""A domain that the embedded pair was not trained on: requests in words, answers in SQL over invented tables.

Everything is drawn from a seed; no text comes from elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

TABLES = {
    "orders": ["id", "customer", "city", "total", "status", "created"],
    "patients": ["id", "name", "age", "ward", "doctor", "admitted"],
    "flights": ["code", "origin", "destination", "price", "seats", "departs"],
    "books": ["id", "title", "author", "year", "pages", "language"],
    "sensors": ["id", "room", "kind", "value", "unit", "measured"],
    "players": ["id", "name", "team", "goals", "age", "country"],
    "invoices": ["id", "client", "amount", "currency", "due", "paid"],
    "products": ["sku", "name", "price", "stock", "supplier", "weight"],
}
NUMERIC = {"total", "age", "price", "seats", "year", "pages", "value", "goals", "amount", "stock", "weight"}
WORDS = {
    "city": ["Oslo", "Lima", "Kyoto", "Turin"], "status": ["open", "paid", "late"], "ward": ["north", "south", "west"],
    "origin": ["OSL", "LIM", "KIX"], "destination": ["TRN", "CDG", "JFK"], "language": ["French", "Greek", "Danish"],
    "kind": ["heat", "light", "noise"], "room": ["kitchen", "hall", "attic"], "team": ["Reds", "Blues", "Greens"],
    "country": ["Peru", "Japan", "Italy"], "currency": ["EUR", "JPY", "SEK"], "supplier": ["Acme", "Nordic", "Delta"],
}  # fmt: skip
COMPARISONS = {"above": ">", "below": "<", "at least": ">=", "at most": "<="}


def _condition(rng: random.Random, columns: list[str]) -> tuple[str, str]:
    choices = [c for c in columns if c in NUMERIC or c in WORDS]
    column = rng.choice(choices)
    if column in NUMERIC:
        word, sign = rng.choice(list(COMPARISONS.items()))
        number = rng.randrange(5, 2000, 5)
        return f"{column} {word} {number}", f"{column} {sign} {number}"
    value = rng.choice(WORDS[column])
    return f"{column} {value}", f"{column} = '{value}'"


def pair(rng: random.Random) -> tuple[str, str]:
    """One request and its answer."""
    table, columns = rng.choice(list(TABLES.items()))
    words, sql = zip(*(_condition(rng, columns) for _ in range(rng.choice((1, 1, 2)))), strict=True)
    where_words, where = " and ".join(words), " AND ".join(sql)
    number = rng.choice([c for c in columns if c in NUMERIC])
    kind = rng.randrange(4)
    if kind == 0:
        picked = rng.sample(columns, 3)
        request = f"Show {', '.join(picked)} of {table} with {where_words}, sorted by {number}."
        answer = f"SELECT {', '.join(picked)}\nFROM {table}\nWHERE {where}\nORDER BY {number} ASC;"
    elif kind == 1:
        group = rng.choice([c for c in columns if c in WORDS])
        request = f"What is the average {number} of {table} with {where_words}, for each {group}?"
        answer = f"SELECT {group}, AVG({number}) AS average_{number}\nFROM {table}\nWHERE {where}\nGROUP BY {group};"
    elif kind == 2:
        request = f"How many {table} have {where_words}?"
        answer = f"SELECT COUNT(*) AS number_of_{table}\nFROM {table}\nWHERE {where};"
    else:
        limit = rng.choice((3, 5, 10, 20))
        request = f"Give the {limit} {table} with the highest {number} among those with {where_words}."
        answer = f"SELECT *\nFROM {table}\nWHERE {where}\nORDER BY {number} DESC\nLIMIT {limit};"
    verb = "reads" if kind in (0, 3) else "counts" if kind == 2 else "averages"
    note = f"The query {verb} from the table {table}; only rows with {where_words} are used."
    return request, f"```sql\n{answer}\n```\n{note}"


def pairs(seed: int) -> Iterator[tuple[str, str]]:
    """Requests and answers without end, no request twice."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        request, answer = pair(rng)
        if request not in seen:
            seen.add(request)
            yield request, answer
