"""Common English words that are no things: whatever frame stands around a thing, it is the thing
that decides."""

COMMON_WORDS = tuple(
    """
    about above accept across act add afraid after again against ago agree ahead all allow
    almost alone along already also always among and another answer any anybody anyone
    anything anyway appear around arrive as ask available away back badly be because become
    before begin behind believe belong best better between beyond big both bother break bring
    broad build but buy by call can care carefully carry catch certain certainly chance change
    check choose clear clearly close collect come common compare complete consider contain
    continue correct could count course create curious cut dare decide deep delighted depend
    desire did different display do does down draw dream during each eager early easily easy
    either else end enjoy enough enter entire even ever every everyone everything exactly
    examine excellent except exist expect explain extra fail fair fairly famous far fast
    favourite feel few fill final finally find fine finish first fit fix follow for forget
    form forward free fresh friendly from front full further gather general get give glad go
    good grand grant great grow guess had half hand happen happy hard hardly has have he hear
    help her here hi him his hold hope hopefully how however huge hurry i idea if imagine
    important in include indeed inside instead interest interested into introduce is it its
    join just keep kind kindly know large last late later lead learn leave left lend less let
    like likely little long look lose lot lots love low lucky main major make manage many mark
    match matter may maybe mean mention might mind miss moment more most mostly move much must
    my name natural near nearly necessary need neither never new next nice no nobody none nor
    normal not note nothing notice now obtain obviously of off offer often old on once only
    open or order ordinary other otherwise ought our out over own pass perfect perhaps pick
    place plain plan please pleased pleasure plenty point possible possibly prefer prepare
    present pretty probably produce promise proper provide pull pure push put quick quickly
    quiet quite rather reach read ready real really reason receive recent recently recommend
    remember repeat request require rest return right round run safe same save say search
    second see seek seem select send sense serious set several shall share she short should
    show side simple simply since single sit small so some somebody somehow someone something
    sometimes somewhere soon sort sound special spend stand start stay still stop straight
    strange such suggest suit supply suppose sure surely take talk tell than thank that the
    their them then there therefore these they thing think this those though through throw
    time to today together tomorrow tonight too top total towards trouble true truly trust try
    turn under understand unless until up upon us use useful usual usually value various very
    view visit wait want was watch way we welcome well were what whatever when where whether
    which while who whole whose why wide will willing wish with within without wonder
    wonderful work worth would write wrong yes yesterday yet you your yours yourself
    """.split()  # noqa: SIM905
)
