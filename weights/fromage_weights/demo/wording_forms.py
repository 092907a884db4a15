"""Forms of many wordings: one of the choices in brackets, "[this|that]", is taken each time.

`{n}` is a count word, `{c}` a colour, `{o}` "a dog".
"""

CHANGES: dict[str, tuple[str, ...]] = {
    "RECOUNT": (
        "[make|do|have] [it|that|them|this] [{n}|be {n}|{n} of them]",
        "[|now|no,|just|only|maybe|but|actually] {n}[| of them| of these| of that| instead| now| of it]",
        "[show|give|get|find|bring] [|me|us] {n}[| of them| instead| now| of those]",
        "[show|give|get|find|bring] [|me|us] [only|just|all] {n}[| of them| instead| now]",
        "i [want|would like|prefer|wish for|asked for|said|like] {n}[| of them| instead| now]",
        "[can|could|would|will] you [make it|show me|find|do|make that|get] {n}[| of them| instead]",
        "[change|set|turn|switch] [it|the number|that|them] [to|into] {n}",
        "[it|that|this|they] [should|must|has to|ought to] be {n}",
        "{n} [would be better|is better|is what i want|is enough|are better|would do|sounds good]",
        "[how|what] about {n}[| of them| instead]",
        "[with|let me see|let there be|let us have|as] {n}[| of them| instead| now]",
        "[i think|i want to see|let's have|let's try|try] {n}[| of them| of these]",
    ),
    "REGROUND": (
        "[on|onto|over|in front of|against|before] {c}[| please| now| instead| then]",
        "[a|the] {c} background[| please| now| instead| would be nice| is better| then]",
        "[make|have|let] [it|that|the background|them|the picture] {c}",
        "[show|give|find|get|bring] [|me|us] [it|that|them|this|the same] [on|against|over] {c}",
        "[change|turn|set|switch] the [background|colour|color|backdrop|ground] [to|into] {c}",
        "i [want|need|would like|like|wish for|said] [it|them|that|this] [on|with|against|before] {c}",
        "i [want|need|would like|like|wish for] [a|the] {c} background",
        "[with|having] {c} behind [it|them|that]",
        "[let|make] the [background|colour|backdrop] be {c}",
        "{c} [would be better|instead|now|is nicer|background|is better|behind it|please]",
        "[how|what] about [{c}|on {c}|a {c} background|a {c} one]",
        "[can|could|would] you [put|show|place|make|do|have] [it|that|them] on {c}",
        "[can|could|would] [it|that|they] be [on {c}|on a {c} background|in front of {c}]",
        "[the same|that|this|it|them][| again| but] [on {c}|with {c}|on a {c} background]",
        "[but|no,|actually|maybe] [on {c}|with a {c} background|in front of {c}|{c}]",
    ),
    "REPLACE": (
        "[change|swap|turn|switch|replace] [it|that|this|them] [for|into|with|by] {o}",
        "[with|now with|but with|make that|make this] {o}[| instead| now]",
        "[the same|that|this][| again| but] [with|for|as] {o}",
        "[no,|actually|i meant|i said|sorry, i want] {o}[| instead]",
        "[can|could] [it|that|this] be {o}[| instead]",
        "[i want|i'd like|show me|give me|let me see] {o} instead",
    ),
    "ADD": (
        "[add|put|place|set|bring|want] {o} [to it|too|as well|to that|beside that|next to that]",
        "[and|now|also|plus|then] {o} [too|as well|beside it|next to it|next to that|in addition]",
        "[can|could] you [add|put|draw|place] {o}[| next to it| beside that| too| as well]",
        "[i also want|i want also|it needs|i would like|there should be] {o} [too|beside it|next to it]",
        "[put|show|have] [it|that] [next to|beside|together with|with] {o}",
        "[with|and] {o} [on the right|to the right|beside it|at its side]",
    ),
}
_HERE = "[|||here|in it|in the picture|in this picture|in my picture|on it|there|in this photo]"
_PICTURE = (
    "[this|it|that|the picture|this picture|my picture|the photo|my photo|this image|that image]"
)
QUESTIONS: dict[str, tuple[str, ...]] = {
    "WHAT": (
        "what [is|do you see|can you see|can i see|do we see|is there|did i send|stands|is visible] "
        + _HERE,
        "[describe|explain|name|caption|identify|recognise] " + _PICTURE + "[| please| for me]",
        "[what is|what's] [in|on|inside] " + _PICTURE,
        "[can|could|would|will] you [describe|explain|name|identify|recognise] "
        + _PICTURE
        + "[| please| for me]",
        "[tell|show|give] me [what it is|what this is|what you see|what is in it|a caption|its name]",
        "[do you know|do you see|can you tell|can you say|can you guess] what [it|this|that] is",
        "[what kind of thing|what thing|what sort of thing|which thing] is [it|this|that]",
        "[and|so|now|well], what [is it|is this|do you see|is that]",
    ),
    "HOW_MANY": (
        "how many [|things|objects|items|pieces|of them] [are there|do you see|can you see|are shown"
        "|did i send|have we|are in it|are visible] " + _HERE,
        "how many [things|objects|items|pieces|of them] " + _HERE,
        "[tell|show|give] me [the number|how many|how many there are|the count|their number]",
        "[count|can you count|could you count|please count] [them|the things|these|all|it|the objects]",
        "[is it|are there|do you see] [one|two|three|one or two|two or three|a pair|more than one|only one]",
        "[what is|what's|say] [the number|the count|their number]",
    ),
    "WHICH_COLOUR": (
        "[what|which] [colour|color] [is|has|does it have|do you see] "
        "[the background|the backdrop|the ground|behind it|behind them|in the back|around it]",
        "[what is|what's|tell me|name|say|and] the [colour|color] [of the background|behind it|around it"
        "|in the back|of the backdrop|of the ground]",
        "[what is|what's] [behind|around] [it|them|that|this]",
        "[on|in front of|against] [what|which] [background|colour|color|backdrop] [is it|does it stand|are they]",
        "[and|what about|tell me|describe|name] the [background|backdrop|ground]",
    ),
    "IS_THERE": (
        "[is|isn't] [there|it|this|that] {o} " + _HERE,
        "[do|don't|can|can't] you [see|find|spot|notice|recognise|detect] {o} " + _HERE,
        "does [it|this|that|the picture|this image] [have|show|hold|include] {o}",
        "[did|have] i [send|sent|draw|drawn|show|shown|upload|uploaded] [you|] {o}",
        "[is|was] [it|this|that] [a picture of|a photo of|really|maybe|perhaps] {o}",
        "{o}[|, right| here| in it|, yes or no|, is it]",
        "[any|is there any sign of|are you seeing|could it be|might it be] {o} " + _HERE,
    ),
}
# <noun> is any other thing's name, <word> a word that is none, <verb> one of asking.
