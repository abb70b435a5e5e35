"""The words that the rules of :mod:`.roles` and :mod:`.modifiers` know: lower-cased lemmas, listed by hand."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Time ---------------------------------------------------------------------------------------------------------------

TIMES = _words(
    "second minute hour day week month year decade century millennium morning afternoon evening night midnight noon "
    "weekend weekday today tomorrow yesterday tonight summer winter autumn spring season moment instant time while "
    "period era date past future present meantime meanwhile now then later birthday anniversary christmas xmas easter "
    "thanksgiving halloween ramadan lifetime yr am pm a.m. p.m. a.m p.m o'clock time-frame timeframe holiday ago "
    "childhood semester anytime everyday sometime daytime nighttime sunday monday tuesday wednesday thursday friday "
    "saturday january february april june july august september october november december"
)
NAMED_TIMES = _words(
    "may march sun mon tue tues wed weds thu thur thurs fri sat jan feb mar apr jun jul aug sep sept oct nov dec "
    "jan. feb. mar. apr. jun. jul. aug. sep. sept. oct. nov. dec. mon. tue. tues. wed. thu. thurs. fri. sat. sun. "
    "est pst cst gmt utc bst edt pdt cdt"
)
"""Times where they are names: the month of May, not "may"."""
PARTS = _words(
    "end beginning start middle rest remainder part half couple number few lot all most much majority bulk course "
    "one eve first last height dawn close turn matter"
)
"""Times where they are parts of one: the end of the year."""

TIME_PREPOSITIONS = _words(
    "in on at for by from to through thru over around within between into past of upon throughout up to as of towards "
    "toward about near across down @ fot under"
) | {"", "up to", "in between", "close to"}
"""Prepositions after which a time is the time of the event, not what it is about."""
YEAR_PREPOSITIONS = _words("in since until till by from to before after during around through into of between")

ANYWHERE = _words("anywhere somewhere everywhere nowhere elsewhere")

TIMES_AS_OBJECTS = frozenset({"spend", "waste", "save", "take", "need", "have", "enjoy", "like", "love", "remember"})

# Places and persons -------------------------------------------------------------------------------------------------

PLACES = _words(
    "place spot location area room site city town country school restaurant store shop house hotel home somewhere "
    "anywhere everywhere nowhere pub bar point area position"
)
STAYING = _words(
    "eat live stay go work be sleep stop shop sit stand rest hide dine play park meet grow walk swim come travel "
    "relax hang camp land arrive"
)
"""Verbs whose gap after a place is the place where: the place we ate."""
PERSONS = _words(
    "i you he she we they who whom me him us them people person man woman friend family wife husband boyfriend "
    "girlfriend mother father mom dad parent son daughter brother sister child kid boy girl guy lady folk everyone "
    "everybody anyone anybody someone somebody nobody customer client member student teacher doctor colleague partner "
    "team staff group company boss manager lawyer agent leader myself yourself himself herself themselves ourselves "
    "myself girl baby vet president government officer trainer neighbor neighbour buddy one other"
)

# Prepositions -------------------------------------------------------------------------------------------------------

_ROLES = {
    "AM-TMP": "during|until|till|til|since|before|after|prior to|as of|following|ago|up until|subsequent to|pending",
    "AM-CAU": "because of|due to|due|thanks to|owing to|given|on account of|becuse|because|cause of",
    "AM-LOC": "in|on|at|near|inside|outside|outside of|inside of|beside|behind|below|beneath|under|underneath|above|"
    "between|in between|btwn|among|amongst|amid|within|throughout|atop|on top of|aboard|beyond|next to|close to|upon|"
    "over|around|round|across|along|past|far from|opposite|aside|by way of|nearby|@|ahead of",
    "AM-DIR": "from|into|onto|unto|toward|towards|out of|off|off of|through|thru|down|up|in to|away from|out|down to|"
    "up to|out ta|home from|back from|back into|on to",
    "A2": "to|of|about|against|back to|over to|out to",
    "AM-PNC": "for|fot",
    "AM-MNR": "with|by|via|without|w/o|with out|like|lik|by means of|along with|together with|by way of|unlike",
    "AM-EXT": "per|worth",
    "AM": "as|than|then|according to|compared to|based on|depending on|despite|instead of|except|except for|including|"
    "such as|regarding|concerning|besides|but|as to|as for|as opposed to|in addition to|rather than|save|re|vs|minus|"
    "plus|apart from|aside from|notwithstanding|as per|in terms of|as with",
}
PREPOSITIONS = {word: role for role, words in _ROLES.items() for word in words.split("|")}
"""What a phrase with this preposition is where no other rule knows better."""

OUTER = _words("as than then like except save besides up down out on right just back well instead")
"""Words that do not decide where another preposition follows: than in, like in, up until, on in."""

ALWAYS = frozenset(word for word, role in PREPOSITIONS.items() if role in ("AM-TMP", "AM-CAU", "AM-EXT"))
"""Prepositions that need no other rule."""

OBJECTS = {
    "at": "look stare laugh shoot aim yell throw shout point glance smile bark scream swear wave hurl peek gaze snap "
    "scoff marvel sneer arrive",
    "for": "look ask search wait pay thank apply vote watch care hope long check blame beg prepare charge "
    "apologize apologise compensate reimburse settle account know arrange opt fight strive push "
    "reward praise forgive bid compete stand mistake inquire plead listen substitute account aim",
    "to": "listen react respond object adhere refer belong relate lead contribute agree subscribe resort amount "
    "testify admit commit devote conform point",
    "on": "depend rely focus concentrate comment base work spend count call insist decide agree blame waste elaborate "
    "report check bet vote touch act impose reflect bank center capitalize expand improve speculate embark "
    "congratulate pin nibble dwell hinge cheat pick follow up rate advise plan pass click",
    "upon": "depend rely touch agree base focus call impose act foist",
    "in": "believe participate result engage involve invest specialize specialise succeed fail interest indulge join "
    "partake interfere intervene trust major assist delight aid enroll include put place help",
    "with": "deal agree meet talk speak discuss argue chat compete interfere cooperate associate provide fill replace "
    "trust present supply equip help merge share bother confuse populate furnish sympathize cope consult collaborate "
    "negotiate coordinate communicate correspond mess connect compare coincide fight comply concur identify arm load "
    "entrust credit charge face infect familiarize tamper clash consort interact partner combine mix marry affiliate "
    "work play trade contact link sync align integrate struggle part put",
    "from": "suffer hear benefit prevent keep stop learn differ prohibit exclude result stem arise distinguish derive "
    "refrain save protect deter separate recover consist receive buy purchase get order borrow obtain come select "
    "exempt find",
    "into": "combine turn look convert transform translate divide make separate put check enter run bump delve evolve "
    "inquire split place talk coerce force trick pressure fool lure entice manipulate",
    "over": "fight argue preside win drool laugh criticize talk agonize dispute gloat confront clash mull take go "
    "favor",
    "as": "use serve know describe refer see regard consider treat identify define perceive act view dismiss accept "
    "characterize think label recognize classify function list portray pose masquerade appoint elect brand hail "
    "establish name rate interpret cite present work qualify denounce dress depict designate count",
    "like": "look feel seem sound smell taste treat act appear",
    "through": "go look read search live suffer think",
    "by": "stand abide swear live",
    "after": "look name take seek run pattern model",
    "around": "revolve center",
    "towards": "work contribute count",
    "toward": "work contribute count",
    "against": "",
    "of": "",
    "about": "",
}
OBJECT_PREPOSITIONS = {word: frozenset(verbs.split()) for word, verbs in OBJECTS.items()}
"""Verbs that take a phrase with this preposition as their object; for of, about and against every verb."""

COMPLEMENTS = _words("of to about with from for against")
"""Prepositions of an adjective's complement: afraid of, similar to."""
ADJECTIVES = {
    "in": _words("interested involved engaged rich confident fluent deficient lacking successful"),
    "on": _words("dependent keen hard easy tough based reliant intent contingent hooked stuck tight"),
    "at": _words("good bad great mad angry shocked surprised amazed excellent terrible adept better best"),
    "by": _words("impressed surprised shocked amazed disappointed confused bored excited annoyed intrigued"),
}

NOUNS = {
    "AM-MNR": {
        "in": "way manner fashion style form cash detail person tandem english french german spanish writing peace "
        "silence line order batch bulk force secret private public depth color colour voice tone quantity word vein "
        "unison english earnest full part row pair order anger horror disgust awe friendship confidence",
        "on": "basis foot own phone purpose paper horseback board credit leash computer manner",
        "at": "speed pace ease random leisure will length risk expense convenience gunpoint once",
        "by": "way standard measure e-mail email mail phone telephone fax hand mistake accident reply force car bus "
        "train plane boat voice foot air sea ship example name definition design nature law chance word means wire "
        "courier taxi cab subway road rail post letter consideration",
        "for": "free nothing cheap cash real",
        "over": "phone telephone internet email radio",
        "to": "rule standard satisfaction specification order",
        "from": "perspective scratch memory viewpoint",
        "with": "",
        "": "way",
    },
    "AM-EXT": {
        "in": "excess whole part total entirety",
        "at": "price rate level cost least most all best worst $ % percent cent volume minimum maximum discount "
        "temperature age",
        "by": "cent % percent far margin $ foot inch degree point lot",
        "to": "extent degree point level max fullest",
        "for": "minimum maximum $ cent price dollar buck rs distance mile",
        "": "bit little lot % percent notch $ cm block mile degree foot pound kilometer hell deal lot alot much inch "
        "meter metre lb. yard kind sort tad lil ton times fraction light km lbs more less",
    },
    "AM-CAU": {"for": "reason lack fear", "at": "request urging behest insistence", "on": "charge suspicion"},
    "AM-PNC": {"in": "effort attempt search preparation hope quest pursuit", "on": "behalf"},
    "AM-TMP": {
        "in": "end meantime interim advance run beginning start past future youth lead-up aftermath wake term",
        "at": "point end beginning start first last once present stage lunch dinner breakfast age outset onset times "
        "dawn dusk daybreak juncture",
        "on": "occasion time eve holiday weekend return arrival",
        "upon": "return arrival completion receipt death signing",
        "by": "end then now age deadline",
        "for": "long good now ever awhile life rest bit duration",
        "from": "start beginning outset inception onset",
        "to": "date",
        "over": "lunch dinner course breakfast",
        "through": "end",
    },
    "AM": {
        "in": "fact case addition opinion general essence regard regards respect comparison spite particular "
        "conclusion summary short reality theory principle view contrast response connection accordance light mind "
        "touch exchange return terms term favor favour charge turn support sense event context trouble error "
        "comparision danger love hand lieu lieu question honor honour aspect belief conjunction compliance writing "
        "estimation doubt nature interest agreement process",
        "on": "hand contrary condition response ground grounds issue fact premise merit average matter topic subject "
        "assumption supposition number request top scale",
        "at": "hand issue risk stake discretion",
        "for": "example instance sake sure certain part case real",
        "with": "exception regard regards respect reference luck",
        "to": "surprise knowledge dismay credit delight",
        "by": "contrast comparison rule chance",
        "from": "standpoint",
        "of": "course",
        "under": "agreement law rule contract policy act plan section provision term condition circumstance guise name "
        "direction supervision control pressure leadership fire impression authority program regime",
        "": "matter",
    },
}
NOUN_ROLES = {
    (preposition, noun): role
    for role, lists in NOUNS.items()
    for preposition, nouns in lists.items()
    for noun in nouns.split()
}
"""Nouns that decide after a preposition: in fact, by phone, at $ 5."""

MOTION = _words(
    "go come walk run drive pass fly travel move flow step fall ride jump climb wander hike swim crawl paddle sail "
    "march rush race slip slide roll circle stroll head leak ooze bring take send carry throw push pull drag put "
    "squeeze pour scroll chase spread stretch get"
)
RESTING = _words("stand sit live stop go come drop pass walk stay drive park lie swing camp locate situate")
"""Verbs after which by is a place: sit by the river."""

# Verbs --------------------------------------------------------------------------------------------------------------

THEMES = _words(
    "be seem appear happen occur exist remain become belong consist matter cost last weigh die disappear vanish emerge "
    "arise result suffice elapse ensue recur lie pertain date stem expire perish abound coincide differ loom linger "
    "persist prove tend fall rise grow die swell rot deteriorate diminish soar plunge decline slip"
)
"""Verbs whose subject is no agent, where they have no object: it happened."""
LINKING = frozenset({"look", "sound", "smell", "taste", "feel"})
"""Verbs whose subject is no agent before an adjective or like: it looks good."""
CHANGES = _words(
    "open close break melt start begin end continue change increase decrease drop improve expand spread burn freeze "
    "sink explode collapse crash develop evolve shrink heal dry boil ring leak spill double escalate worsen vary fade "
    "heat cool crack tear snap shatter flood flow unfold erupt stabilize dissolve merge split widen narrow resume load "
    "reopen accumulate fluctuate triple ignite wilt turn"
)
"""Verbs whose subject changes, where it is no person and they have no object or clause: the door opened."""
AGENTS = _words("i you he she we who me him us myself yourself everyone anyone someone people")
GIVING = _words(
    "give send offer award grant pay tell ask teach show assign charge hand lend owe promise deny serve feed allocate "
    "gift bring sell allow guarantee issue provide quote refuse forward mail fine"
)
"""Verbs whose passive has the recipient as its subject, where it has an object: he was given a book."""
NAMING = _words("call name title dub entitle label term")
TELLING = _words("tell ask teach show remind promise warn")
"""Verbs whose object is the hearer, where a clause follows or it is a pronoun: tell him that."""
PRONOUNS = _words("i you he she we they me him her us them everyone anyone someone myself yourself")

# Nouns with clauses ------------------------------------------------------------------------------------------------

WAYS = _words("way manner means method how fashion")
REASONS = _words("reason why cause")
CONTENTS = _words(
    "ability inability effort attempt chance opportunity right pressure failure requirement request plan power "
    "unwillingness willingness authority authorization strategy move need use promise urge bid initiative potential "
    "motivation pretext ambition plot quest obligation expertise theory patience agreement option flexibility work "
    "guideline step secret order battle movement measure dedication misfortune decision rule pact cost possibility "
    "encouragement hint bet choice appointment hope audacity offer permission idea desire freedom responsibility "
    "capacity incentive liberty instinct mind excuse intention tendency commitment proposal proposition refusal "
    "determination reluctance readiness inclination temptation invitation call demand motion ban access fact belief "
    "claim notion feeling sense risk fear threat duty job task goal aim mission policy process procedure mechanism "
    "delivery strength energy courage nerve pleasure privilege honor honour drive instruction recommendation "
    "suggestion reminder tip courtesy pain shame trouble difficulty problem point case position balance room "
    "experience"
)
"""Nouns whose clause says what they consist in: the ability to go. They fill no role in it."""
