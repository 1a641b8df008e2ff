"""Extraction: an order in plain words becomes JSON with the same four keys every time."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from demo_data.task import Example, Task

KEYS = ("customer", "product", "quantity", "city")
INSTRUCTION = "Extract the order as JSON with customer, product, quantity, city.\n{}"
SEED = 20
NUM_TRAIN = 340
NUM_HELD_OUT = 40

NUMBER_WORDS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twelve": 12,
}


@dataclass(frozen=True)
class Wording:
    """Sentences and what fills their slots; no line of one Wording is in the other."""

    templates: str
    first_names: str
    last_names: str
    products: str
    cities: str


TRAIN = Wording(
    templates="""
        Hi, this is {customer} from {city}. Please send me {quantity} {product}.
        {customer} in {city} wants {quantity} {product}.
        I would like to order {quantity} {product}. Ship to {customer}, {city}.
        Please deliver {quantity} {product} to {city}. My name is {customer}.
        Order from {customer}: {quantity} {product}, to be sent to {city}.
        We need {quantity} {product} at our office in {city}. Regards, {customer}
        {quantity} {product} for {customer}, {city}, please.
        My name is {customer}, I live in {city} and I need {quantity} {product}.
        Could you send {quantity} {product} to {customer} in {city}?
        A call came in from {city}: {customer} asks for {quantity} {product}.
        Hello, can I get {quantity} {product} in {city}? Thanks, {customer}
        Ship {quantity} {product} to {customer} at the {city} address.
        {customer} here. I'll take {quantity} {product}, delivery to {city}.
        The customer {customer} bought {quantity} {product} in our {city} shop.
        From {city}, {customer} writes that she wants {quantity} {product}.
        For our store in {city} we order {quantity} {product}. Signed, {customer}
        Dear team, {quantity} {product} should go to {city}. Best wishes, {customer}
        Yesterday {customer} called and ordered {quantity} {product} for {city}.
        To {city}, please: {quantity} {product}. Bill it to {customer}.
        Put {customer} down for {quantity} {product}, shipping to {city}.
        """,
    first_names="""
        Maria John Aisha Pedro Olga Liam Yuki Fatima Carlos Ingrid Tom Priya Andre Sofia Ahmed
        Helen Marco Lucy Ivan Grace Peter Nadia Oscar Ruth Samuel Elena David Mei Paul Zara
        Dmitri Gwen Bjorn Sven Dora Igor Wanda Kofi Lars Greta Stefan Joao Malik Tessa Rosa Henrik
        """,
    last_names="""
        Lopez Smith Khan Silva Ivanova Murphy Tanaka Haddad Garcia Larsen Baker Patel Dubois
        Rossi Hassan Clark Bianchi Brown Petrov Kim Novak Adams Weber Cohen Wright Moreno Chen
        Dvorak Nguyen Schmidt Costa Jovanovic Osman Reyes Eriksen Kowalski Mbeki Duarte Hughes
        """,
    products="""
        desk lamps, oak chairs, blue notebooks, coffee mugs, wool blankets, garden hoses,
        wall clocks, leather belts, paint brushes, steel knives, paper cups, hiking boots,
        tea pots, phone chargers, rain coats, flower pots, tennis balls, silver spoons,
        wooden trays, cotton towels, bike helmets, door handles, picture frames, office desks,
        green pillows, glass bowls, winter gloves, travel bags, water bottles, kitchen scales
        """,
    cities="""
        Lisbon, Berlin, New York, Oslo, Madrid, Dublin, Cairo, Toronto, Kyoto, Rome, Lyon,
        Chicago, Vienna, Mumbai, Sao Paulo, Prague, Boston, Seoul, Athens, Hamburg, Cape Town,
        Warsaw, Leeds, Lima, Zurich, Denver, Porto, Milan, Bergen, San Diego,
        Dakar, Gdansk, Zagreb, Brussels, Istanbul, Marseille, Naples, Ghent, Utrecht, Belgrade,
        Odessa, Tallinn, Dallas, Quito, Bilbao, Salzburg, Aarhus, Vilnius, Tampere, Rabat
        """,
)

HELD_OUT = Wording(
    templates="""
        Good morning! {customer} speaking, calling about {quantity} {product} for {city}.
        {city} again: they want {quantity} {product}, and the name on the order is {customer}.
        Can {quantity} {product} be with {customer} in {city} by Friday?
        Note to sales: {customer} has requested {quantity} {product}; destination {city}.
        We are opening a cafe in {city} and require {quantity} {product}. Yours, {customer}
        Kindly reserve {quantity} {product} under the name {customer}. I collect them in {city}.
        I'm {customer} and I'd love {quantity} {product} sent over to {city}.
        {customer} ({city}) would like to buy {quantity} {product}.
        """,
    first_names="Hannah Diego Noor Felix Amara Viktor Chloe Rashid Emma Hugo",
    last_names="Fischer Ramos Okafor Lindgren Moretti Sato Campbell Jensen Ortiz Walker",
    products="""
        red umbrellas, hand mixers, yoga mats, candle holders, chess boards, fishing rods,
        bath mats, bread baskets, bar stools, silk scarves
        """,
    cities="""
        Paris, Helsinki, Nairobi, Valencia, Montreal, Geneva, Los Angeles, Turin, Dresden, Perth
        """,
)


def extract_task() -> Task:
    held_out = _examples(HELD_OUT, NUM_HELD_OUT, SEED + 1)
    return Task(
        name="extract",
        title="orders in plain words to JSON",
        summary="Turns an order written in plain words into JSON: customer, product, quantity, "
        "city, in this order, the quantity always a number.",
        train=_examples(TRAIN, NUM_TRAIN, SEED),
        held_out=held_out,
        held_out_is="orders whose sentences, names, products and cities are in no training order",
        score=score,
        metric_notes={
            "fields right": "share of the four fields that are right in the first JSON object of "
            "the answer (letter case and quotes around the number are forgiven)",
            "exact answer": "the whole answer is exactly the expected JSON",
        },
        samples=[example.prompt for example in held_out[:3]],
        lora={"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
        dtype="bfloat16",
        epochs=1,
        learning_rate=1e-3,
        max_new_tokens=96,
    )


def score(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
    fields = sum(_fields_right(e.answer, a) for e, a in zip(examples, answers, strict=True))
    exact = sum(a.strip() == e.answer for e, a in zip(examples, answers, strict=True))
    return {
        "fields right": fields / (len(examples) * len(KEYS)),
        "exact answer": exact / len(examples),
    }


def _fields_right(expected: str, answer: str) -> int:
    wanted = json.loads(expected)
    try:
        found, _ = json.JSONDecoder().raw_decode(answer[answer.index("{") :])
    except ValueError:
        return 0
    return sum(_plain(found.get(key)) == _plain(wanted[key]) for key in KEYS)


def _plain(value: object) -> str:
    return str(value).strip().casefold()


def _examples(wording: Wording, count: int, seed: int) -> list[Example]:
    """`count` orders; templates take turns, everything else is drawn."""
    draw = random.Random(seed)
    templates = [line.strip() for line in wording.templates.strip().splitlines()]
    products = [product.strip() for product in wording.products.split(",")]
    cities = [city.strip() for city in wording.cities.split(",")]
    examples = []
    for index in range(count):
        first = draw.choice(wording.first_names.split())
        customer = f"{first} {draw.choice(wording.last_names.split())}"
        written, quantity = _quantity(draw)
        order = {
            "customer": customer,
            "product": draw.choice(products),
            "quantity": quantity,
            "city": draw.choice(cities),
        }
        text = templates[index % len(templates)].format_map({**order, "quantity": written})
        text = text[0].upper() + text[1:]
        examples.append(Example(INSTRUCTION.format(text), json.dumps(order)))
    return examples


def _quantity(draw: random.Random) -> tuple[str, int]:
    """A number as the order says it, in digits or as a word, and its value."""
    if draw.random() < 0.4:
        return draw.choice(list(NUMBER_WORDS.items()))
    value = draw.randint(2, 99)
    return str(value), value
