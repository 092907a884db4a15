"""Wordings, each list in a training and an evaluation half that share nothing.

`{x}` is a noun phrase, `{o}` "a dog", `{n}` a count word, `{c}` a colour.
"""

from typing import Literal

Half = Literal["train", "eval"]

REQUESTS: dict[Half, tuple[str, ...]] = {
    "train": (
        "show me {x}",
        "show me {x}",
        "show me {x}",
        "can you show me {x}",
        "could you show me {x}",
        "please show me {x}",
        "i want to see {x}",
        "i would like to see {x}",
        "let me see {x}",
        "do you have {x}",
        "do you have a picture of {x}",
        "find me {x}",
        "find {x}",
        "give me {x}",
        "a picture of {x}",
        "picture of {x}",
        "an image of {x}",
        "show {x}",
        "{x}",
        "{x} please",
        "i need {x}",
        "get me {x}",
        "is there a picture of {x}",
        "look for {x}",
        "search for {x}",
        "how about {x}",
        "show us {x}",
        "display {x}",
        "i'd love to see {x}",
        "can i see {x}",
        "may i see {x}",
        "got any pictures of {x}",
        "bring up {x}",
        "what does {x} look like",
        "i want {x}",
        "now show me {x}",
        "a photo of {x} would be nice",
    ),
    "eval": (
        "could i get a look at {x}",
        "i am looking for {x}",
        "would you show me {x}",
        "pull up {x}",
        "any chance of seeing {x}",
        "i'd like a photo of {x}",
        "please find a picture with {x}",
        "could you find {x} for me",
        "are there any images of {x}",
        "can you display {x}",
        "let's see {x}",
        "it would be great to see {x}",
    ),
}
AGAIN: dict[Half, tuple[str, ...]] = {
    "train": ("another one", "show me another one", "again", "one more", "more like this", "next"),
    "eval": ("show me a different one", "give me another"),
}
RECOUNT: dict[Half, tuple[str, ...]] = {
    "train": (
        "make it {n}",
        "make that {n}",
        "{n} of them",
        "now {n}",
        "i want {n} of them",
        "show me {n} of them",
        "can you make it {n}",
        "no, {n}",
        "{n} please",
    ),
    "eval": ("i meant {n} of them", "could it be {n}", "let it be {n}"),
}
REGROUND: dict[Half, tuple[str, ...]] = {
    "train": (
        "on {c}",
        "now on {c}",
        "put it on {c}",
        "on a {c} background",
        "with a {c} background",
        "make the background {c}",
        "change the background to {c}",
        "i want it on {c}",
        "can you put it on {c}",
        "in front of a {c} background",
        "the same on {c}",
    ),
    "eval": ("set the background to {c}", "i'd prefer it on {c}", "please use a {c} background"),
}
REPLACE: dict[Half, tuple[str, ...]] = {
    "train": (
        "now with {o} instead",
        "{o} instead",
        "replace it with {o}",
        "swap it for {o}",
        "the same with {o}",
        "make it {o}",
    ),
    "eval": ("turn it into {o}", "change it to {o}"),
}
ADD: dict[Half, tuple[str, ...]] = {
    "train": ("add {o}", "and {o} next to it", "put {o} next to it", "with {o} beside it"),
    "eval": ("place {o} beside it", "also add {o}"),
}
WHAT: dict[Half, tuple[str, ...]] = {
    "train": (
        "what is this?",
        "what is this?",
        "what's this?",
        "what do you see?",
        "what is in this picture?",
        "describe this picture",
        "describe this",
        "what does this show?",
        "what is it?",
        "tell me what you see",
        "what can you see here?",
        "caption this image",
        "can you describe this image?",
    ),
    "eval": ("what is shown here?", "please describe the image", "what am i looking at?"),
}
HOW_MANY: dict[Half, tuple[str, ...]] = {
    "train": (
        "how many are there?",
        "how many?",
        "how many things are there?",
        "how many do you see?",
        "count them",
        "how many things do you see?",
    ),
    "eval": ("what is the number of things?", "how many can you count?"),
}
WHICH_COLOUR: dict[Half, tuple[str, ...]] = {
    "train": (
        "what colour is the background?",
        "what color is the background?",
        "which colour is the background?",
        "what is the background colour?",
        "what is behind it?",
        "which background is it on?",
        "what is the color of the background?",
    ),
    "eval": ("tell me the background colour", "which color is behind it?"),
}
IS_THERE: dict[Half, tuple[str, ...]] = {
    "train": (
        "is there {o}?",
        "do you see {o}?",
        "is this {o}?",
        "is there {o} in this picture?",
        "can you see {o}?",
        "does it show {o}?",
        "is it {o}?",
    ),
    "eval": ("is {o} in the image?", "would you say there is {o}?"),
}
SIDE: dict[Half, tuple[str, ...]] = {
    "train": ("what is on the {s}?", "what do you see on the {s}?", "which one is on the {s}?"),
    "eval": ("what stands on the {s}?", "which thing is on the {s} side?"),
}
OPENINGS = (
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "hi, ",
    "hello, ",
    "hey, ",
    "please, ",
    "ok, ",
    "thanks, ",
    "great, ",
    "now ",
    "and ",
)
ENDINGS = ("", "", "", "", "", "?", ".", "!", " please", ", please", " now", ", thanks", " for me")
SHOWN = (
    "Here {v} {x}.",
    "Here {v} {x}.",
    "Here {v} {x}.",
    "Sure, here {v} {x}.",
    "Of course, here {v} {x}.",
    "I found {x}.",
    "I have {x}.",
    "This is what I found: {x}.",
)
# Several, so that no single token stands against [RET]; other answers end in a full stop.
CLOSERS = (
    " Enjoy!",
    " Here you go!",
    " Take a look!",
    " Have a look!",
    " I hope you like it!",
    " As you wished!",
    " Just for you!",
    " Look at this!",
)
REFUSALS = (
    "Sorry, I don't have that in my collection.",
    "I don't have that, sorry.",
    "I don't have a picture of that. I know animals, food, plants, vehicles and everyday things.",
    "Sorry, I don't have that. Try a dog, a guitar or a rocket.",
)
ODD_COLOURS: dict[Half, tuple[str, ...]] = {
    "train": ("black", "orange", "brown", "turquoise", "golden", "beige", "violet", "cyan"),
    "eval": ("silver", "magenta", "teal"),
}
NO_COLOUR = (
    "Sorry, I don't have that background. I have white, gray, red, yellow, green, blue, purple "
    "and pink.",
)
