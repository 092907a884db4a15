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
AROUND = (
    "<verb>[| me| us] [a|the|that|your|my|some|one] <noun> [of|of|of|with|showing] {x}",
    "[can|could|will|would|won't] [you|we|someone] <verb>[| me| us] [a|the] <noun> [of|of|with] {x}",
    "<word> [|me|us|it|with|to|on] [a|the|one] <noun> [of|of|with] {x}",
    "[a|the|one|your|this|any] <noun> [of|of|with|showing|for] {x}",
    "<verb>[| me| us] {x} [for|in|from|like|on|with] [a|my|the|our|your] <noun>",
    "{x} [for|in|from|like|on] [a|my|the|our|your] <noun>",
    "[|and|so|my|our|the] <noun> [wants|needs|likes|asks for|loves|is after|would like] {x}",
    "[what|which|whose|what sort of|which sort of] <noun> [has|shows|holds|is there for|goes with] {x}",
    "[where|how|when|why not] [do|can|could|did|would] [you|i|we|one] <word> {x}",
    "[is|are|was|may|must|will] {x} <word>[| in your <noun>| by the <noun>| in the <noun>]",
    "[i|we] <word> [you|it|that|to] <word> {x}[| in your <noun>| in the <noun>]",
)
# Asked for as if it were something else: a question about the one who is asked, an aside, an order.
ASIDE = (
    "[do|would|could|don't] you [feel like|think of|mind|consider|fancy|enjoy|object to] "
    "<doing>[| me| us] {x}",
    "[how about|what about|what do you say to|are you up for|thanks for|is there a way of|try|"
    "start|consider|i insist on|i am thinking of|any chance of|the point is] <doing>[| me| us] {x}",
    "[could|can|may|must|might|should|will|shall|would|let] {x} [please |] be <done>"
    "[| for me| here| now| to us| today| in this chat]",
    "[i want|i would like|i need|we want|they want|she wants] {x} [to be |] <done>"
    "[| for me| here| now| to us| today]",
    "[you|you people|they|we|you guys] [surely|really|must|do|certainly|might|should|can] "
    "[have|own|keep|hold|possess|know|offer|store] {x}[, right|, don't you|, no|, or not||]",
    "[you have|you've got|you own|you keep|there is|you know|we have|you hold] {x}[, right"
    "|, haven't you|, don't you|, isn't there|, correct|, i suppose|, i guess|, no|, yes]",
    "[where|how] [do|did|can|would|could|might] [you|they|i|we|one] [keep|hide|find|store|see|put"
    "|picture|draw|imagine|paint|spot|look up] {x}[| here| in it| now| for me]",
    "[i|we|she|he|they] [can't|cannot|can not|could not|never|won't|can hardly] [picture|find|see"
    "|imagine|spot|recall|draw|remember] {x}[| here| today| on my own| without you]",
    "[i|we|she|he|they|my kids|the children|people] [must see|must have|have to see|ought to see"
    "|want|need|ask for|look for|should see|will need|demand] {x}[| on the screen| now| here|]",
    "[put|hang|bring|set|hold|lay|place|throw|stick|leave] {x} [before|on|in front of|next to|over"
    "|into|under] [my|our|the|his|her|this] <word>[| now| today]",
    "[who|what|which of you|nobody|anyone|does anyone|does somebody|who else] [can|could|will|may"
    "|might|is able to|wants to] <verb>[| me| us] {x}",
    "[do|did|would|can|could] you [think|believe|suppose|guess] [you|we|somebody] "
    "[can|could|might|will] <verb>[| me| us] {x}",
    "[it|there|this|that] [must|should|may|has to|might|can] be {x}[| here| somewhere| in it]",
    "[is|are|was|were] {x} <done>[| here| somewhere| by you| in any of them| today]",
    "[in|are you in|with] [possession|need|search|favour|want|charge] of {x}",
    "[does|do|did|will|can|would] [a|any|some|one|the|your] <noun> [of|with|showing|about] {x} "
    "[turn up|occur|show up|live|appear|come up|stand|hide|sit][| in your <noun>| somewhere||]",
    "[is|are|was|were] {x} <done> [in|on|by|among|under] [any|one|some|all|none] "
    "[of your|of the|of these|of our|] <noun>",
    "[and|so|also|then|or|but] {x}, [is|was|are] [that|it|there one|there any] "
    "[on|among|inside|part of|under|within] [your|the|this|that|any] <noun>",
    "[my|our|his|her|your|the] <noun> [would|will|might|must|should|could] "
    "[like|want|enjoy|adore|need|prefer|welcome|cherish] {x}[| today| now| very much| a lot]",
    "[is|was|isn't|are] there [a|any|one|some] <noun> [of|of|with|showing] {x} "
    "[<done>|to be <done>|nearby|within reach|on hand|left|<word>|in your <noun>|for me]",
    "[a|the|one|any] <noun> [of|of|with|showing] {x} [is|was|must be|should be|has been|would be] "
    "[wanted|needed|expected|asked for|wished for|welcome|required|<done>][| now| please| here]",
    "[why|how come] [do|did|can|must|should] [i|we|they] [not|never|hardly] [get|see|have|find|meet]"
    " {x}, [<verb> one|so <verb> it|please <verb> me that|<verb> me some]",
    "[i|we] [hope|wish|yearn|ache|beg|aim|mean|intend|hunger|itch|plan] to [|now |only |just ]"
    "[<verb>|<word>] {x}[| today| now| once more| with you]",
)
DOING = (
    "showing", "finding", "fetching", "bringing", "drawing", "displaying", "sharing", "getting",
    "giving", "picking", "sending", "opening", "loading", "seeing", "having", "looking for",
    "searching for", "looking up", "posting", "presenting",
)  # fmt: skip
DONE = (
    "displayed", "shown", "found", "printed", "seen", "presented", "drawn", "loaded", "fetched",
    "opened", "posted", "shared", "brought", "sent", "picked", "given", "visible", "pictured",
)  # fmt: skip
