"""Words for conversations to copy: city names, made-up words and search phrases."""

from random import Random


def _listed(text: str) -> tuple[str, ...]:
    """Split a text at bars; a line ends with a bar if the list continues."""
    return tuple("".join(line.strip() for line in text.splitlines()).split("|"))


CITIES = _listed("""
    Paris|Tokyo|Berlin|Rome|London|Madrid|New York|San Francisco|Los Angeles|Chicago|Boston|Seattle|
    Toronto|Montreal|Vancouver|Mexico City|Lima|Bogotá|São Paulo|Rio de Janeiro|Buenos Aires|
    Santiago|Lisbon|Porto|Barcelona|Valencia|Dublin|Edinburgh|Glasgow|Manchester|Amsterdam|
    Rotterdam|Brussels|Antwerp|Cologne|Hamburg|Munich|München|Zürich|Geneva|Vienna|Salzburg|Prague|
    Budapest|Warsaw|Gdańsk|Copenhagen|Oslo|Bergen|Stockholm|Malmö|Helsinki|Tallinn|Riga|Athens|
    Istanbul|Ankara|Cairo|Casablanca|Lagos|Nairobi|Cape Town|Accra|Dubai|Doha|Tehran|Delhi|
    New Delhi|Mumbai|Kolkata|Bangkok|Hanoi|Jakarta|Manila|Singapore|Kuala Lumpur|Seoul|Busan|Osaka|
    Kyoto|Sapporo|Beijing|Shanghai|Shenzhen|Hong Kong|Taipei|Sydney|Melbourne|Perth|Auckland|
    Wellington|北京|上海|深圳|广州|成都|東京|大阪|서울|Москва|Київ|Αθήνα|
    Málaga|Córdoba|Nice|Lyon|Naples|Milan|Venice|Turin|Denver|Austin|Houston|Miami|Atlanta|Dallas|
    Phoenix|Portland|Honolulu|Reykjavik|Marrakesh|Addis Ababa|Ho Chi Minh City|St. Louis|Washington
""")

# Never drawn for training, because `evaluate` asks about these.
HELD_OUT_CITIES = _listed("""
    Kraków|Ljubljana|Montevideo|Yokohama|Bratislava|Sarajevo|Tbilisi|Windhoek|Chattanooga|
    Albuquerque|Łódź|Düsseldorf|Göteborg|Aarhus|Ottawa|Quito|Havana|Kathmandu|Ulaanbaatar|Brisbane|
    Canberra|Adelaide|Philadelphia|Minneapolis|San Diego|Las Vegas|Salt Lake City|Santa Fe|
    New Orleans|Kansas City|Nagoya|Fukuoka|Hangzhou|Chengdu|杭州|西安|京都|Belfast|Liverpool|
    Sheffield|Bordeaux|Marseille|Toulouse|Seville|Bilbao|Palermo|Genoa|Bucharest|Sofia|Zagreb|
    Belgrade|Skopje|Vilnius|Minsk|Baku|Yerevan|Muscat|Karachi|Lahore|Dhaka|Yangon|Phnom Penh|
    Vientiane|Cebu
""")

_ONSETS = [
    "b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "br",
    "ch", "cl", "dr", "fr", "gr", "kr", "pl", "qu", "sh", "st", "th", "tr",
]  # fmt: skip
_VOWELS = [
    "a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "au", "ea", "ei", "ia", "ie", "ou", "y", "á",
    "é", "ö", "ü", "ã", "ø",
]  # fmt: skip
_CODAS = ["", "", "", "", "n", "r", "l", "s", "t", "m", "k", "nd", "rg", "ck", "ng"]
_SUFFIXES = [
    "burg", "ton", "ville", "ford", "ham", "stad", "polis", "berg", "grad", "port", "field", "mouth",
    "bury", "wick",
]  # fmt: skip
_PREFIXES = [
    "New", "San", "Santa", "Port", "El", "Los", "Saint", "North", "South", "Upper", "Bad", "Fort",
    "Lake",
]  # fmt: skip
_CYRILLIC = [
    "ба", "ве", "го", "да", "жи", "за", "ки", "ло", "ма", "но", "пе", "ра", "си", "ту", "фе", "хо",
    "це", "ча", "ши", "юр", "ян", "ск", "град",
]  # fmt: skip

_SEARCH_WORDS = _listed("""
    rate limits|reset|password|api|keys|streaming|tool calls|batch size|quantisation|metrics|
    logging|install|upgrade|docker|kubernetes|helm chart|gateway|engine|scheduler|cache|
    prefix cache|memory|tokens|timeouts|retries|errors|authentication|billing|quota|webhooks|
    deployment|monitoring|alerts|configuration|settings|environment variables|health checks|
    load balancing|experts|attention|embeddings|sampling|temperature|chat template|tensor parallel|
    speculative decoding|benchmarks|backups|migrations|database|redis|postgres|tls|certificates|
    proxy|cli|python client|curl|examples|changelog|release notes|licence|security|permissions|
    roles|users|teams|projects
""")


def syllables(rng: Random, low: int, high: int) -> str:
    """Draw a pronounceable lower-case word of `low` to `high` syllables."""
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.randint(low, high))
    )


def _letters(rng: Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 9))).capitalize()


def _spliced(rng: Random) -> str:
    """Join the start of one city and the end of another: pieces of real names in unseen order."""
    start, end = rng.choice(CITIES), rng.choice(CITIES)
    return start[: (len(start) + 1) // 2] + end[len(end) // 2 :]


def _made_up_city(rng: Random) -> str:
    draw = rng.random()
    if draw < 0.08:
        return "".join(chr(rng.randint(0x4E00, 0x8FFF)) for _ in range(rng.randint(2, 3)))
    if draw < 0.12:
        return "".join(rng.choice(_CYRILLIC) for _ in range(rng.randint(2, 3))).capitalize()
    if draw < 0.36:
        return _spliced(rng) if draw < 0.26 else _letters(rng)
    name = syllables(rng, 1, 3).capitalize()
    if draw < 0.47:
        name = syllables(rng, 1, 2).capitalize() + rng.choice(_SUFFIXES)
    if draw < 0.6:
        return f"{rng.choice(_PREFIXES)} {name}"
    if draw < 0.65:
        return f"{name}{rng.choice(('-', ' '))}{syllables(rng, 1, 2).capitalize()}"
    return name


def city(rng: Random) -> str:
    """Draw a city, more often made up than real, so that the model learns to copy names, not to know them."""
    while True:
        name = rng.choice(CITIES) if rng.random() < 0.4 else _made_up_city(rng)
        if name in HELD_OUT_CITIES:
            continue
        if rng.random() < 0.06:
            name = name.lower()
        return name


def distinct_cities(rng: Random, count: int) -> list[str]:
    """Draw `count` different cities."""
    found: list[str] = []
    while len(found) < count:
        name = city(rng)
        if name not in found:
            found.append(name)
    return found


def person(rng: Random) -> str:
    """Draw a first name, often made up."""
    known = [
        "Ada", "Alan", "Grace", "Linus", "Mei", "Omar", "Priya", "Sofia", "Tom", "Yuki", "Anna", "Ben",
        "Carla", "David", "Emma", "Felix", "Lena", "Max",
    ]  # fmt: skip
    return rng.choice(known) if rng.random() < 0.4 else syllables(rng, 1, 3).capitalize()


def phrase(rng: Random) -> str:
    """Draw a search phrase of one to four words, some of them made up."""
    words = [
        rng.choice(_SEARCH_WORDS) if rng.random() < 0.6 else syllables(rng, 1, 3)
        for _ in range(rng.randint(1, 3))
    ]
    return rng.choice((" ", " ", " ", " and ", " for ", " with ")).join(words)


def identifier(rng: Random) -> str:
    """Draw a snake_case or plain identifier such as a parameter or JSON key."""
    words = [
        "id", "name", "user", "item", "count", "value", "level", "mode", "unit", "zone", "code",
        "text", "file", "path", "size", "kind", "date", "note", "rank",
    ]  # fmt: skip
    parts = [
        rng.choice(words) if rng.random() < 0.6 else syllables(rng, 1, 2) for _ in range(rng.randint(1, 2))
    ]
    return "_".join(parts)


def sentence(rng: Random) -> str:
    """Draw a nonsense sentence of three to seven words, to be ignored or copied whole."""
    words = [
        rng.choice(_SEARCH_WORDS) if rng.random() < 0.4 else syllables(rng, 1, 2)
        for _ in range(rng.randint(3, 7))
    ]
    return " ".join(words).capitalize()
