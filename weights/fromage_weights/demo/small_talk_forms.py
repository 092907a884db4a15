"""Small talk put together from parts, as requests are in `wordings`: with a few hundred fixed
prompts the language model takes any unfamiliar sentence for a request.

`{a|b}` picks one, and may be nested; `<name>` and the like are filled with a word of that kind,
now and then with a made-up one, so that an unknown word alone never means a picture.
"""

import re

import numpy as np

from fromage_weights.demo.common_words import COMMON_WORDS
from fromage_weights.demo.grammar import NAMES, pick, plural, with_article
from fromage_weights.demo.nouns import any_noun, pseudo_word
from fromage_weights.demo.wordings import random_words

_WHO = "{there|friend|my friend|dear|bot|robot|computer|everyone|all|again|you|buddy|<name>}"
_HELLO = "{hello|hi|hey|good morning|good evening|good afternoon|good day|hallo|howdy|greetings}"
_WHEN = "{today|now|tonight|this morning|at the moment|these days|this week|right now}"
_KIN = "{mother|father|sister|brother|son|daughter|wife|husband|friend|boss|teacher|neighbour}"
_FEELING = (
    "{happy|sad|tired|bored|lonely|hungry|thirsty|ill|sick|angry|excited|nervous|sleepy|fine|great"
    "|well|lost|busy|proud|worried|afraid|relaxed|cold|hot|ready|confused|<word>}"
)
_GOOD = (
    "{great|nice|cool|good|lovely|perfect|amazing|beautiful|cute|funny|excellent|super|pretty"
    "|wonderful|awesome|sweet|neat|interesting|clever|fine|impressive|brilliant|charming}"
)
_BAD = "{wrong|bad|ugly|boring|terrible|awful|false|silly|stupid|not right|not good|useless|poor}"
_VERY = "{|||very|so|really|quite|too|pretty|just}"
_JOB = "{painter|doctor|nurse|student|cook|driver|farmer|singer|lawyer|engineer|clerk|<word>}"
_LANGUAGE = "{german|french|spanish|russian|japanese|greek|latin|turkish|english|hindi|<word>}"
_TOPIC = (
    "{history|physics|music|politics|art|money|love|sports|science|law|religion|chemistry|time"
    "|the past|the future|the economy|poetry|mathematics|medicine|weather|philosophy|<word>}"
)
_DOES = (
    "{work|live|study|sleep|walk|run|read|write|dance|sing|swim|cook|travel|play|eat|drink|talk"
    "|paint|teach|drive|wait|think|rest|learn|shop|garden}"
)
_WORKS = "{works|lives|studies|sleeps|reads|dances|sings|cooks|travels|plays|teaches|drives}"
_DID = (
    "{worked|slept|read|danced|cooked|travelled|played|ate|talked|painted|waited|rested|learned"
    "|left|fell|cried|laughed|won|lost|stayed at home|went out|went home|came back|had fun}"
)
_OFTEN = "{||every day|a lot|sometimes|too much|at night|in the morning|alone|with friends|here}"
_STUFF = (
    "{a letter|an email|some code|a poem|a song|a story|an essay|a list|a report|my homework"
    "|my tax|this text|a summary|the bill|a recipe|a ticket|a table|a taxi|a meeting|<word>}"
)
_SOMEBODY_HAS = (
    "{my <kin>|<name>|nobody|my friend|he|she|everybody|the <kin>} {has|had|owns|found|lost|bought|likes"
    "|saw|drew|feeds|rides|sold|forgot} {<thing>|<things>|a <word>|my <thing>|some <things>}"
    "{| too| again| once| at home| in <place>| now}"
)
_WE_USE = (
    "{i|we|they} {drive|ride|feed|forgot|repair|cook|paint|eat|clean|carry|hear|hate|fear|grow|wear} "
    "{<thing>|<things>|my <thing>|your <thing>}{| today| every day| at home| sometimes| too}"
)
# A thing in a question does not make it a request for its picture.
_ABOUT_THINGS = (
    "{how|why|when|where|since when} {do|did|can|would|should} {<things>|<noun>s} "
    "{<does>|live|fly|grow|swim|jump|hide|break|die|burn|float|sleep}{| in <place>| at night| so well}?",
    "{can|could|will|do|does|did|should} {<thing>|a <noun>|any <thing>|every <thing>} "
    "{<does>|fly|grow|jump|bite|hear|break|die|burn|float|feel pain|live long}{| in <place>| alone}?",
    "{is|was|isn't} {<thing>|a <noun>|your <thing>|the <thing>} {dangerous|expensive|heavy|healthy|rare"
    "|clever|older than <name>|a good present|better than <thing>|an animal|useful|made in <place>}?",
    "how {big|old|heavy|fast|tall|long|loud|expensive|strong|dangerous} {is|was|gets|can} "
    "{<thing>|a <noun>|the <thing>}{| get| in <place>| on average| really}?",
    "how {much|often|long} {does|did|should|would} {<thing>|a <noun>} {cost|weigh|eat|sleep|live|take}?",
    "how many {<things>|<noun>s} {are there|live|were made|fit} in {<place>|the world|a house|a day}?",
    "what {do|did|would|will} {<things>|<noun>s} {eat|want|cost|mean|hear|say|need|dream of|think}?",
    "{who|when|where} {invented|made|discovered|named|sold|ate|stole|bought} {<thing>|the first <thing>"
    "|my <thing>|the <noun>}?",
    "what is the {price|weight|age|meaning|history|use|point|latin word|taste} of {<thing>|<things>|a <noun>}?",
    "{are|were|aren't} {<things>|<noun>s} {related to|better than|faster than|afraid of|good for|like} "
    "{<things>|people|<noun>s|us}?",
    "{how do i|should i|may i|can one} {feed|wash|repair|sell|cook|clean|train|paint|spell|pay for} "
    "{<thing>|my <thing>|a <noun>|<things>}?",
)  # fmt: skip
_FORMS: dict[str, tuple[str, ...]] = {
    "greeting": (
        f"{_HELLO} {_WHO}",
        f"{_HELLO}, {{nice|good|great|a pleasure}} to {{see|hear|have}} you{{| again| here}}",
        f"{_HELLO}, {{i am back|i am here|it is me|here i am|long time no see|i am <name>}}",
        f"{_HELLO} and {{welcome|good luck|good day|a nice day}}{{| to you| to all}}",
        f"{{oh|ah|well|and|so}} {_HELLO}{{| {_WHO}}}",
        f"{{i say|a big|a warm|just}} {_HELLO}{{| to you| from <place>| from me}}",
    ),
    "how_are_you": (
        f"how {{are you|do you feel|are you feeling|is it going|is everything|is work}}{{| {_WHEN}}}?",
        f"are you {_VERY} {_FEELING}{{| {_WHEN}}}?",
        "{is everything|are things|is all|is life} {fine|ok|good|well|going well} {|with you|there}?",
        "did you {sleep|have a good day|have fun|rest} {|well|today|last night}?",
    ),
    "who": (
        "{are you|aren't you} {a|an} {bot|robot|person|human|model|program|man|woman|machine"
        "|friend|teacher|stranger|<word>}?",
        "{what|who} {are|were} you{| really| again| called}?",
        "is your name <name>?",
        f"{{are you a|are you my|did you become a}} {_JOB}?",
        "{say|tell me|give me} {your name|something about you|a word about you|who i talk to}",
    ),
    "what_can_you_do": (
        f"can you {_DOES}{{|?}}",
        "{what|which things} {can|could|do|will} you {do|know|offer|show|find|help with}"
        "{| here| for me| today}?",
        "{how|where} do i {start|begin|ask|go|upload|type|search}{| here| now}?",
        "{help|please help|i need help|can someone help|help me out}{| me| now| with this}",
        "{what is|what are} {your job|your task|the rules|this page|this place|your limits}?",
    ),
    "thanks": (
        "{thanks|thank you|many thanks|big thanks|thx|cheers}{| a lot| so much| again| very much| <name>}"
        "{| for that| for this| for the picture| for everything| for your time}",
        f"{{that|this|it}} {{was|is}} {_VERY} {{helpful|kind|nice}} of you",
        f"{_GOOD}, {{thanks|thank you|thanks a lot}}",
    ),
    "praise": (
        f"{{that|this|it}} {{is|was|looks|seems}} {_VERY} {_GOOD}",
        f"{_VERY} {_GOOD}{{| work| job| one| picture| indeed| stuff| answer}}",
        f"you {{are|were|look|sound}} {_VERY} {_GOOD}",
        "i {like|love|enjoy|adore|prefer} {it|this|that|this one|that one|the picture|the colours}"
        "{| a lot| so much| very much}",
        f"{{what a|such a}} {_GOOD} {{picture|one|answer|idea|day|surprise}}",
        "{wow|haha|lol|yay|oh|ooh|hooray|bravo}{|, nice|, great|, cool|, good| again}",
    ),
    "complaint": (
        f"{{that|this|it}} {{is|was|looks|seems}} {_VERY} {_BAD}",
        f"you are {_VERY} {_BAD}",
        "i {hate|dislike|don't like|don't want|can't see|don't believe} {it|this|that|you|the picture}",
        "{not|no,|nope,} {that|this|that one|this one|again|like this|really}",
        f"{{what a|such a}} {_BAD} {{picture|answer|idea|day}}",
        "{that|this|it} {is not|isn't|was not|was no|is no|can't be|does not look like} {<thing>|<things>}",
        "{that|this} {is|was} not {what i said|what i meant|mine|true|what i asked|a good answer}",
    ),
    "bye": (
        "{bye|goodbye|good night|farewell|see you|ciao}{| bye| now| then| for now| <name>| friend"
        "| my friend| again| soon| later| on <day>}",
        "i {must|have to|need to|should|want to} {go|leave|run|sleep|stop}{| now| soon| home| to bed}",
        "{have|enjoy} {a nice|a good|a great|your|the} {day|evening|night|weekend|time|<day>}",
        "{that is|that was} {all|everything|it|enough}{| for now| for today| from me| thanks}",
    ),
    "joke": (
        "{tell|know|say|give} {me|us} {a|one|another|some|the best|a short} {joke|funny story|jokes|pun}",
        "{do you know|have you got|can you tell|will you tell} {a|any|another|some} {joke|jokes|riddle|pun}?",
        "{make|let} {me|us} {laugh|smile|giggle}{| a bit| again| please}",
    ),
    "feelings": (
        f"{{i am|i'm|i feel|i was|we are|she is|he is|they are|i get}} {_VERY} {_FEELING}{{| {_WHEN}}}",
        f"{{my <kin>|<name>|nobody|everyone|somebody}} {{is|feels|was|looks}} {_VERY} {_FEELING}",
        f"{{today|yesterday|the day|last night|my week|life}} {{was|is|feels}} {_VERY} {{{_GOOD}|{_BAD}}}",
        "{i miss|i love|i hate|i need|i fear} {you|him|her|home|my <kin>|<name>|<place>|<day>}",
    ),
    "likes": (
        "do you {like|love|hate|enjoy} {me|<things>|<topic>|<place>|<name>|people|us"
        "|<day>|games|movies|books|the sun|rain|winter|summer}?",
        "do you {know|miss|prefer|need|remember} {me|<topic>|<place>|<name>|people|us|<day>|my <kin>}?",
        "{what is|what's|which is} your {favourite|favorite|best|preferred} {colour|color|animal|food"
        "|song|book|film|day|number|city|sport|word|game|thing|<word>}?",
        f"do you {_DOES} {_OFTEN}?",
        "what do you {like|love|think|hate|prefer|want|believe|dream}{| most| of| about me| about}?",
        "{do|would} you {prefer|fear|like|envy|rather meet|eat} <thing>{| or <thing>| or a <noun>}?",
        "would you {like|love|rather be|prefer} {<topic>|a friend|to <does>|<place>|me}?",
    ),
    "maker": (
        "who {made|built|trained|wrote|owns|programmed|invented|taught|pays} {you|this|this bot|it}?",
        "{when|where|how|why} {were|are} you {made|built|trained|born|invented|here|programmed}?",
        "how {old|big|small|smart|fast|clever|good|heavy|tall} are you?",
        "{are you|is this} {chatgpt|open|free|<word>|on the internet|from <place>|alive|online}?",
        "{where|with whom|how} do you {live|work|learn|run|come from}?",
    ),
    "languages": (
        f"{{do|can|will}} you {{speak|understand|read|write|learn|know}} {_LANGUAGE}?",
        f"{{speak|answer|write|talk}} {{in|to me in}} {_LANGUAGE}{{| please}}",
        "{hola|bonjour|ciao|guten morgen|salut|merci|danke|gracias|por favor|nein|oui|<word> <word>"
        "|<word> <word> <word>}",
    ),
    "knowledge": (
        "{what is|where is|what's} the {capital|population|president|flag|king|language|centre} of <place>?",
        "{what is|what's|how much is} <number> {plus|minus|times|and|divided by} <number>?",
        "{who|when|where|why} {wrote|won|was|is|made|found|invented|died|lost|started} "
        "{it|the game|the war|<name>|<topic>|the book|the race|this|that|the radio}?",
        "{what is|what's|why is|explain|define|tell me about|teach me} <topic>{|?}",
        "{can you|please|could you|will you|would you} {write|send|make|read|translate|book|order|check"
        f"|fix|solve|finish|explain}} {_STUFF}{{| for me| now| please}}",
        f"{{write|send|translate|book|order|fix|solve|finish|explain}} {_STUFF}{{| for me| now| please}}",
        "how {do i|can i|does one|do people|do we|should i} {<does>|get to <place>|fix this|pay|win"
        "|learn <topic>|earn money|say that|spell <word>|open this|become a doctor|know that}?",
        "how {far|big|old|deep|long|heavy|tall|fast|much|high} is {it|the moon|the sea|<place>|<name>"
        "|the river|the world|the sky|this|<topic>}?",
        "{is it|will it be|was it} {raining|late|true|cold|warm|far|expensive|<day>|dark|open|safe}"
        "{| today| there| in <place>| now| tomorrow}?",
        "{when|where} {does|will|did} {the bus|the shop|the train|<name>|the show|it|school|the bank}"
        " {open|close|start|end|leave|come|go|stop}?",
        "should i {<does>|stay|go|marry <name>|buy it|call <name>|say yes|trust you|move to <place>}?",
        "{why|how|when|where|who|what|which one|how come|what for|since when}{| not| then| exactly| now}?",
        "{turn|switch} {on|off} {the light|the music|the tv|the radio|the heating|it}",
        "{play|sing|call|stop|start|open|close|buy|sell|pay} {a song|music|my <kin>|<name>|it|the door"
        "|something|the bill|now}",
        "{what|which} {day|time|year|month|date|century} is it{| now| today| there| in <place>}?",
        *_ABOUT_THINGS,
    ),
    "nonsense": (
        "<word> <word>", "<word> <letters>", "<common>", "<common>", "<common>", "<word> <word> <word>", "<number>", "<number> <number>", "<letters>",
        "{ok|okay|yes|no|yeah|sure|maybe|aha|hmm|hm|well|so|right|fine|ah|oh|uh|eh|um|alright|true|good}"
        "{|, ok|, well|, yes|, right| then| ok| so| maybe| well| sure| hm}",
        "{never mind|forget it|stop|wait|go on|nothing|whatever|continue|let me see|i see|just a second"
        "|one second|not now|i wonder|i guess|who knows|no idea|as you like|be quiet|come on}",
        "{is this|this is|that is|it is} {just|only|still} {a test|a joke|me|testing|nothing}",
    ),
    "chat": (
        f"i {_DOES} {_OFTEN}",
        f"i {{never|always|often|sometimes|don't|can't|can|will|might|used to}} {_DOES} {_OFTEN}",
        f"{{my <kin>|<name>|my <kin> and i|we|they|my friends}} {_DID}{{| yesterday| today| in <place>}}",
        f"my <kin> {_WORKS} {{in <place>|at home|at a bank|every day|with me|in a shop|here}}",
        _SOMEBODY_HAS,
        _WE_USE,
        "my {<kin>|<thing>|house|street|town|job|phone|school|name|room|computer} is "
        "{<name>|old|new|small|big|called <name>|broken|far away|in <place>|nice|not here|<word>}",
        "i {have|had|bought|sold|lost|found|saw|broke|forgot|ate|got|like|love|own} {<thing>|<things>|my <thing>"
        "|a <word>|some <things>} {at home|yesterday|last week|in <place>|today|once|as a child|at work}",
        "i am {from <place>|<number> years old|<name>|new here|at home|at work|at school|on the train"
        f"|in <place>|a {_JOB}|learning <topic>|here|looking around}}",
        "{call me|i am|my name is|people call me|this is|they call me} <name>",
        "{it is|it was|it gets|it will be} {cold|warm|dark|late|raining|snowing|windy|<day>|spring|winter"
        "|early|quiet|loud|summer} {here|outside|in <place>|today|now|again}",
        "{the weather|the food|the film|the party|the trip|the traffic|the book|the game} {is|was} "
        f"{_VERY} {{{_GOOD}|{_BAD}}}",
        "{today|yesterday|tomorrow|on <day>|last year|now} {i|we|they} {go home|had lunch|met <name>|saw a film"
        "|went to <place>|got married|start school|won|visit my <kin>|see the doctor|stay here}",
        "{nobody|everyone|somebody|no one} {likes me|knows|came|called|is here|told me|understands}",
    ),
}  # fmt: skip
_FILLERS: dict[str, tuple[str, ...]] = {
    "name": (
        "anna", "peter", "max", "tom", "lucy", "sam", "maria", "john", "paul", "emma", "ben", "kate",
        "david", "sofia", "leo", "nina", "george", "clara", "oscar", "ruth", "hugo", "iris", "frank",
    ),
    "place": (
        "berlin", "london", "france", "italy", "rome", "china", "japan", "india", "texas", "egypt",
        "vienna", "brazil", "africa", "madrid", "sweden", "boston", "peru", "kenya", "dublin",
        "the city", "the country", "the mountains", "the north",
    ),
    "kin": tuple(_KIN.strip("{}").split("|")),
    "day": ("monday", "tuesday", "friday", "saturday", "sunday", "christmas", "easter", "holidays"),
    "topic": tuple(t for t in _TOPIC.strip("{}").split("|") if t[0] != "<"),
    "does": tuple(_DOES.strip("{}").split("|")),
    "number": (
        "two", "three", "four", "five", "six", "seven", "nine", "ten", "twelve", "twenty", "fifty",
        "1", "2", "3", "4", "7", "12", "15", "42", "99", "100", "123", "1000",
    ),
}  # fmt: skip
_MADE_UP = 0.2
_ALTERNATIVES = re.compile(r"\{([^{}]*)\}")
_FILLER = re.compile(r"<(\w+)>")


def _letters(rng: np.random.Generator) -> str:
    return "".join(chr(97 + int(rng.random() * 26)) for _ in range(1 + int(rng.random() * 6)))


def _fill(kind: str, rng: np.random.Generator) -> str:
    if kind == "word":
        return pseudo_word(rng)
    if kind == "letters":
        return _letters(rng)
    if kind == "common":
        return " ".join([pick(rng, COMMON_WORDS), *random_words(rng, 6)])
    if kind == "noun":
        return any_noun(rng)
    if kind == "thing":
        return with_article(pick(rng, NAMES))
    if kind == "things":
        return plural(pick(rng, NAMES))
    if kind in ("name", "place", "topic") and rng.random() < _MADE_UP:
        return pseudo_word(rng)
    return pick(rng, _FILLERS[kind])


def small_talk_form(intent: str, rng: np.random.Generator) -> str:
    """A made-up prompt of that intent."""
    text = pick(rng, _FORMS[intent])
    while match := _ALTERNATIVES.search(text):
        choice = pick(rng, tuple(match[1].split("|")))
        text = text[: match.start()] + choice + text[match.end() :]
    text = _FILLER.sub(lambda found: _fill(found[1], rng), text)
    text = re.sub(r"\b(my|any|every|your|the|first) an? ", r"\1 ", text)
    text = re.sub(r"\ban?(?= ([a-z]))", lambda a: "an" if a[1] in "aeiou" else "a", text)
    return re.sub(r" +([?,])", r"\1", re.sub(r" {2,}", " ", text)).strip()
