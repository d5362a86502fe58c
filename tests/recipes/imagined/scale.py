"""What the fragments of docs/scale.md talk about."""

questions = range(3)


def load_model():
    return "model"


def ask(model, question):
    return f"{model} answers {question}"


def print(*answers):  # noqa: A001  # the page does not say what they are
    pass
