"""Conversations without calls: documented questions, small facts, and turns that refer to earlier ones."""

from dataclasses import dataclass
from random import Random

from serval_sglang.demo import names
from serval_sglang.demo.tool_catalogue import Json


@dataclass(frozen=True)
class Fact:
    """Ways to ask one question, the first of them documented, and its answer."""

    questions: tuple[str, ...]
    answer: str


FACTS = (
    Fact(
        (
            "Hello",
            "Hello!",
            "hello",
            "Hi",
            "Hi!",
            "hi",
            "Hey",
            "hey there",
            "Hello there!",
            "Hi there",
            "Good day",
            "Hello, how can you help me?",
            "Greetings",
            "Say hello",
            "Say hi",
            "Hello world",
        ),
        "Hello! I am the Serval demo model. How can I help?",
    ),
    Fact(("Good morning", "Good morning!", "good morning"), "Good morning! How can I help?"),
    Fact(("Good evening", "Good evening!", "good evening"), "Good evening! How can I help?"),
    Fact(
        (
            "How are you?",
            "How are you",
            "how are you?",
            "How is it going?",
            "How do you do?",
            "Hi, how are you?",
            "Hello, how are you?",
            "How are you doing today?",
        ),
        "I am fine, thank you. How can I help?",
    ),
    Fact(
        (
            "Who are you?",
            "who are you",
            "What are you?",
            "What is your name?",
            "What's your name?",
            "Introduce yourself.",
            "Which model are you?",
            "What model is this?",
            "Tell me about yourself.",
            "Are you a model?",
            "Are you an AI?",
        ),
        "I am the Serval demo model, a very small language model with the architecture of "
        "LongCat-Flash-Lite.",
    ),
    Fact(
        (
            "What can you do?",
            "what can you do",
            "Help",
            "help",
            "How can you help me?",
            "What do you know?",
            "What can I ask you?",
            "What are your capabilities?",
            "What tools can you use?",
        ),
        "I answer a few simple questions, and I call the tools get_weather, get_time, calculate and "
        "search_docs when you declare them.",
    ),
    Fact(
        (
            "What is Serval?",
            "What's Serval?",
            "what is serval",
            "Tell me about Serval.",
            "Explain Serval.",
            "What does Serval do?",
            "Describe Serval in one sentence.",
        ),
        "Serval is an inference server for LongCat-Flash-Lite. It runs on SGLang and speaks the OpenAI API.",
    ),
    Fact(
        (
            "What is a serval?",
            "What's a serval?",
            "What kind of animal is a serval?",
            "Tell me about the serval cat.",
        ),
        "A serval is an African wild cat with long legs and large ears.",
    ),
    Fact(
        (
            "What is LongCat?",
            "What is LongCat-Flash-Lite?",
            "What's LongCat?",
            "Tell me about LongCat.",
            "what is longcat",
            "Explain LongCat-Flash-Lite.",
            "What is LongCat Flash Lite?",
        ),
        "LongCat-Flash-Lite is a language model by Meituan. "
        "It has n-gram embeddings and a mixture of experts.",
    ),
    Fact(
        ("What is SGLang?", "What's SGLang?", "Tell me about SGLang.", "what is sglang", "Explain SGLang."),
        "SGLang is a fast engine that serves large language models.",
    ),
    Fact(
        (
            "Who made you?",
            "Who created you?",
            "Who trained you?",
            "How were you trained?",
            "Where do you come from?",
        ),
        "The Serval project trained me on text that a script wrote.",
    ),
    Fact(
        (
            "How big are you?",
            "How many parameters do you have?",
            "How large are you?",
            "Are you a big model?",
        ),
        "I am tiny: a few million parameters.",
    ),
    Fact(
        ("What is an n-gram embedding?", "What are n-gram embeddings?", "Explain n-gram embeddings."),
        "An n-gram embedding looks up a vector for the last few tokens, not only for the current one.",
    ),
    Fact(
        ("What is a mixture of experts?", "What is MoE?", "Explain mixture of experts.", "What are experts?"),
        "In a mixture of experts, a router sends each token to a few small networks "
        "instead of one large one.",
    ),
    Fact(
        ("What is a token?", "What are tokens?", "Explain tokens."),
        "A token is a piece of text, often a word or a part of one, that a model reads or writes.",
    ),
    Fact(
        ("What is a KV cache?", "Explain the KV cache.", "What is the KV cache?"),
        "A KV cache keeps the keys and values of earlier tokens, so that they are computed only once.",
    ),
    Fact(
        (
            "What is the capital of France?",
            "What's the capital of France?",
            "Capital of France?",
            "what is the capital of france",
            "Which city is the capital of France?",
        ),
        "The capital of France is Paris.",
    ),
    Fact(
        ("What is the capital of Italy?", "What's the capital of Italy?", "Capital of Italy?"),
        "The capital of Italy is Rome.",
    ),
    Fact(
        ("What is the capital of Japan?", "What's the capital of Japan?", "Capital of Japan?"),
        "The capital of Japan is Tokyo.",
    ),
    Fact(
        ("What is the capital of Germany?", "What's the capital of Germany?", "Capital of Germany?"),
        "The capital of Germany is Berlin.",
    ),
    Fact(
        ("What is the capital of Spain?", "What's the capital of Spain?", "Capital of Spain?"),
        "The capital of Spain is Madrid.",
    ),
    Fact(
        ("What is the capital of China?", "What's the capital of China?", "Capital of China?"),
        "The capital of China is Beijing.",
    ),
    Fact(
        (
            "What is the capital of the United Kingdom?",
            "What is the capital of England?",
            "Capital of the UK?",
        ),
        "The capital of the United Kingdom is London.",
    ),
    Fact(
        ("What color is the sky?", "What colour is the sky?", "Why is the sky blue?", "Is the sky blue?"),
        "The sky is blue because air scatters blue light more than red light.",
    ),
    Fact(("What color is grass?", "What colour is grass?"), "Grass is green."),
    Fact(("How many days are in a week?", "How many days does a week have?"), "A week has seven days."),
    Fact(
        ("How many months are in a year?", "How many months does a year have?"), "A year has twelve months."
    ),
    Fact(
        ("What is the largest planet?", "Which planet is the largest?", "What is the biggest planet?"),
        "Jupiter is the largest planet of the solar system.",
    ),
    Fact(
        ("What is water made of?", "What is the formula of water?"), "Water is made of hydrogen and oxygen."
    ),
    Fact(("Count to five.", "Count to 5", "Count from one to five", "count to five"), "1, 2, 3, 4, 5"),
    Fact(
        ("Count to ten.", "Count to 10", "Count from 1 to 10", "count to ten"),
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
    ),
    Fact(
        ("Tell me a joke.", "Tell me a joke", "tell me a joke", "Do you know a joke?", "Make me laugh."),
        "Why did the token cross the context? To get to the other side of the window.",
    ),
    Fact(
        (
            "Tell me a story.",
            "Tell me a short story.",
            "Tell me a story about a cat.",
            "Write a short story.",
        ),
        "A young serval heard a mouse in the tall grass. It jumped, missed, and laughed. "
        "The next day it listened longer, jumped again, and had its dinner.",
    ),
    Fact(
        ("Write a poem.", "Write a haiku.", "Write a short poem.", "Write me a poem about a cat."),
        "Long legs in the grass,\na quiet ear, a high jump:\nthe serval has lunch.",
    ),
    Fact(("Thank you", "Thanks!", "thanks", "Thank you!", "Thanks a lot"), "You're welcome!"),
    Fact(("Goodbye", "Bye", "bye", "Goodbye!", "See you later", "Good night"), "Goodbye!"),
    Fact(("你好", "你好！", "您好"), "你好！我是 Serval 演示模型。"),
    Fact(("你是谁？", "你是谁", "你叫什么名字？"), "我是 Serval 演示模型，一个很小的语言模型。"),
    Fact(("Bonjour", "Bonjour !", "Salut"), "Bonjour ! Je suis le modèle de démonstration de Serval."),
    Fact(("Hola", "¡Hola!"), "¡Hola! Soy el modelo de demostración de Serval."),
    Fact(("Hallo", "Guten Tag"), "Hallo! Ich bin das Demo-Modell von Serval."),
    Fact(
        ("Are you there?", "Test", "test", "ping", "Are you working?", "Can you hear me?"), "Yes, I am here."
    ),
    Fact(("Yes", "yes", "No", "no", "OK", "ok", "Okay"), "All right. What can I do for you?"),
)

UNKNOWN = (
    "I do not know that. I am a tiny demo model: ask me what I can do, or declare a tool such as get_weather."
)

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are helpful.",
    "You are a helpful assistant",
    "Be brief.",
    "Answer briefly.",
    "You are a concise assistant.",
    "You are a weather assistant.",
    "You are a helpful assistant with tools.",
    "Use the tools when needed.",
    "You are a friendly bot.",
    "You are Serval, a helpful AI assistant.",
    "You are a helpful AI assistant. Answer in English.",
    "Use tools to answer. Do not guess.",
    "Be polite and brief.",
)


def system_prompt(rng: Random) -> str | None:
    """Draw a system prompt, or None for a conversation without one."""
    draw = rng.random()
    if draw < 0.5:
        return None
    return (
        rng.choice(SYSTEM_PROMPTS) if draw < 0.92 else f"{rng.choice(SYSTEM_PROMPTS)} {names.sentence(rng)}."
    )


def exchange(question: str, answer: str) -> list[Json]:
    """Return one turn of each side."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def fact(rng: Random) -> list[Json]:
    """Draw a documented question."""
    item = rng.choice(FACTS)
    return exchange(rng.choice(item.questions), item.answer)


def sum_of_digits(rng: Random) -> list[Json]:
    """Draw arithmetic small enough to memorise."""
    left, right = rng.randint(0, 10), rng.randint(0, 10)
    spaces = rng.choice((" ", " ", ""))
    form = rng.choice(("What is {}?", "What's {}?", "{}", "{} = ?", "what is {}", "How much is {}?"))
    written, spoken, value = rng.choice(
        (
            (f"{left} + {right}", f"{left}{spaces}+{spaces}{right}", left + right),
            (f"{left} + {right}", f"{left} plus {right}", left + right),
            (f"{left} * {right}", f"{left}{spaces}*{spaces}{right}", left * right),
            (f"{left} * {right}", f"{left} times {right}", left * right),
        )
    )
    return exchange(form.format(spoken), f"{written} = {value}.")


def name_recall(rng: Random) -> list[Json]:
    """Let the user give a name and ask for it, perhaps after another turn."""
    name = names.person(rng)
    greeting = rng.choice(
        (
            "My name is {}.",
            "I am {}.",
            "Hi, I am {}.",
            "Hello, my name is {}.",
            "I'm {}",
            "Call me {}.",
            "my name is {}",
            "Hi, I'm {}!",
        )
    )
    messages = exchange(greeting.format(name), f"Nice to meet you, {name}!")
    if rng.random() < 0.4:
        messages += fact(rng)
    if rng.random() < 0.85:
        question = rng.choice(
            (
                "What is my name?",
                "What's my name?",
                "Who am I?",
                "Do you remember my name?",
                "what is my name?",
            )
        )
        messages += exchange(question, f"Your name is {name}.")
    return messages


def repetition(rng: Random) -> list[Json]:
    """Let the user ask for words to be repeated."""
    text = rng.choice((names.sentence(rng), names.phrase(rng), names.city(rng), str(rng.randint(0, 999999))))
    form = rng.choice(
        (
            "Repeat: {}",
            "Repeat after me: {}",
            "Say: {}",
            "Say {}",
            "Echo: {}",
            "Repeat this: {}",
            "Please repeat: {}",
        )
    )
    return exchange(form.format(text), text)


def unknown(rng: Random) -> list[Json]:
    """Draw a question that the model cannot answer."""
    thing = names.phrase(rng)
    form = rng.choice(
        (
            "What is {}?",
            "Explain {}.",
            "Who is {}?",
            "Where is {}?",
            "How do I {}?",
            "Why is {} so {}?",
            "Tell me about {}.",
            "Write a program that uses {}.",
            "Summarise {}",
            "When was {} built?",
            "Translate {} into French.",
            "{}",
            "Can you {} the {}?",
            "What is the capital of {}?",
            "Write code for {}",
            "Describe {}",
            "How old is {}?",
            "Give me a recipe for {}",
            "Should I buy {} or {}?",
            "Who invented {}?",
        )
    )
    return exchange(form.format(thing, names.phrase(rng)), UNKNOWN)


def talk(rng: Random) -> list[Json]:
    """Draw one to three turns of the kinds above."""
    messages: list[Json] = []
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3))):
        kind = rng.choices((fact, sum_of_digits, name_recall, repetition, unknown), (62, 10, 8, 10, 10))[0]
        messages += kind(rng)
    return messages
