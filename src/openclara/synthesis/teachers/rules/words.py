"""Closed lists of English words that the rules stand on."""

from __future__ import annotations

from typing import Final


def word_set(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


BE: Final = word_set(
    """
    is are was were
    """
)
HAVE: Final = word_set(
    """
    has have had
    """
)
MODAL: Final = word_set(
    """
    can could may might will would should must
    """
)

# base past participle
_IRREGULAR = """
be was been|bear bore born|beat beat beaten|become became become|begin began begun|bind bound bound
bite bit bitten|blow blew blown|break broke broken|breed bred bred|bring brought brought
build built built|burst burst burst|buy bought bought|cast cast cast|catch caught caught
choose chose chosen|come came come|cost cost cost|cut cut cut|deal dealt dealt|dig dug dug
do did done|draw drew drawn|drink drank drunk|drive drove driven|eat ate eaten|fall fell fallen
feed fed fed|feel felt felt|fight fought fought|find found found|fly flew flown
forbid forbade forbidden|forget forgot forgotten|freeze froze frozen|get got gotten
give gave given|go went gone|grow grew grown|hang hung hung|have had had|hear heard heard
hide hid hidden|hit hit hit|hold held held|keep kept kept|know knew known|lay laid laid
lead led led|leave left left|lend lent lent|let let let|lie lay lain|light lit lit
lose lost lost|make made made|mean meant meant|meet met met|pay paid paid|put put put
read read read|ride rode ridden|ring rang rung|rise rose risen|run ran run|say said said
see saw seen|seek sought sought|sell sold sold|send sent sent|set set set|shake shook shaken
shoot shot shot|show showed shown|shut shut shut|sing sang sung|sink sank sunk|sit sat sat
sleep slept slept|speak spoke spoken|spend spent spent|split split split|spread spread spread
spring sprang sprung|stand stood stood|steal stole stolen|stick stuck stuck|strike struck struck
swear swore sworn|sweep swept swept|swim swam swum|take took taken|teach taught taught
tear tore torn|tell told told|think thought thought|throw threw thrown
undergo underwent undergone|understand understood understood|undertake undertook undertaken
wear wore worn|weave wove woven|win won won|withdraw withdrew withdrawn|write wrote written
overthrow overthrew overthrown|oversee oversaw overseen|overtake overtook overtaken
rebuild rebuilt rebuilt|sow sowed sown|sew sewed sewn|arise arose arisen|foresee foresaw foreseen
"""
_TRIPLES = [one.split() for line in _IRREGULAR.strip().splitlines() for one in line.split("|")]
BASE_OF_PAST: Final = {past: base for base, past, _ in _TRIPLES}
PAST_OF_PARTICIPLE: Final = {participle: past for _, past, participle in _TRIPLES}

# Words in -ed that are no verbs, or are nearly always something else.
NOT_PAST: Final = word_set(
    """
    red bed seed need speed hundred indeed united exceed proceed succeed feed weed breed shed sled
    sacred naked wicked beloved embed deed creed greed reed steed ted fred alfred mohammed ahmed
    aged advanced so-called related limited armed
    """
)

# Third person of verbs that are seldom nouns, with their base.
_THIRD_PERSON = """
becomes:become begins:begin belongs:belong borders:border comprises:comprise connects:connect
consists:consist contains:contain covers:cover describes:describe depends:depend drains:drain
employs:employ encompasses:encompass follows:follow flows:flow houses:house includes:include
involves:involve joins:join lies:lie lives:live manages:manage occurs:occur occupies:occupy
offers:offer operates:operate owns:own plays:play produces:produce provides:provide
publishes:publish refers:refer remains:remain represents:represent requires:require runs:run
serves:serve specializes:specialize stars:star teaches:teach tells:tell uses:use
explains:explain stands:stand means:mean measures:measure studies:study sells:sell
features:feature competes:compete attracts:attract affects:affect causes:cause allows:allow
"""
PRESENT: Final = dict(pair.split(":") for pair in _THIRD_PERSON.split())

ADVERBS: Final = word_set(
    """
    also first then later originally still now often never ever usually sometimes soon once
    generally mainly mostly primarily currently formerly previously eventually finally initially
    widely best well commonly subsequently officially already again always together twice
    afterwards thereafter meanwhile nevertheless therefore instead otherwise
    """
)

PREPOSITIONS: Final = word_set(
    """
    in on at by for with from to as into during after before until since under over between among
    through against about around across along near within without upon onto via towards toward
    following including despite alongside behind beyond above below throughout per like than
    """
)
# What may stand inside the name of a thing that a sentence begins with.
INSIDE_SUBJECT: Final = word_set(
    """
    of the and a an & de la le von van der den du al ibn y
    """
)

# A noun phrase does not begin with these.
NO_NOUN: Final = word_set(
    """
    up out off down away back home more much less fewer little enough as so too very ago again
    not only just even quite rather of and or but to if able around over through together
    """
)

# What may open a sentence before its subject and says nothing of it.
OPENERS: Final = word_set(
    """
    But And Yet So Nevertheless Nonetheless
    """
)

PRONOUNS: Final = word_set(
    """
    he she it they we i you this that these those there here his her its their who which what
    such one some many most both each all another other others several few
    """
)

MONTHS: Final = (
    "January|February|March|April|May|June|July|August|September|October|November|December"
)
DAYS: Final = word_set(
    """
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday
    """
)

NUMBER_WORDS: Final = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen"
    "|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
)

HONORIFICS: Final = word_set(
    """
    Mr Mrs Ms Dr Sir Lord Lady Dame King Queen Prince Princess Pope President Emperor Empress
    Saint General Captain Colonel Admiral Senator Governor Bishop Archbishop Cardinal Professor
    Judge Justice Rabbi Reverend Sultan Tsar Count Duke Baron
    """
)

# A name with one of these is a thing, a place or a body, not a person.
THING_WORDS: Final = word_set(
    """
    University College School Academy Institute Museum Library Hospital Church Cathedral Abbey
    Temple Castle Palace House Hall Tower Bridge Station Airport Road Street Avenue Highway Route
    River Lake Sea Ocean Bay Island Islands Mountain Mountains Hill Hills Valley Forest Park
    Desert County Province State States District Region Republic Kingdom Empire Union City Town
    Village North South East West Northern Southern Eastern Western Central New Great Company
    Corporation Inc Ltd Group Records Entertainment Studios Pictures Productions Press Times News
    Magazine Journal Party Council Commission Committee Congress Parliament Senate Government
    Court Army Navy Force Forces Fleet Regiment Division Battle War Wars Treaty Act Bill Law
    League Cup Championship Championships Tournament Games Series Season Club Team United Band
    Orchestra Festival Award Awards Prize Album Song Film Show Channel Network Radio Television
    Society Association Organization Foundation Federation Bank Fund Agency Department Ministry
    Office Bureau Board Center Centre Project Program Programme System Theory Language Dynasty
    Revolution Movement Day Week Year Age Era Period Century World America Europe Asia Africa
    Australia Britain England France Germany Italy Spain China Japan India Russia Canada Brazil
    Mexico London Paris York Rome Berlin Class Type Model Mark Line Railway Bowl Stadium Arena
    Theatre Theater Mansion Farm Ranch Plantation Fort Camp Base Port Harbor Harbour Beach Creek
    Code Protocol Constitution Declaration Amendment Bible Quran Testament Gospel Tropical
    Hurricane Storm Interstate Expressway Trail Grand The Old Royal National International
    """
)

# Those of them that act as people do: "Who voted against it?"
BODIES: Final = word_set(
    """
    University College School Academy Institute Company Corporation Inc Ltd Group Records Studios
    Productions Press Party Council Commission Committee Congress Parliament Senate Government
    Court Army Navy Club Team Band Orchestra Society Association Organization Foundation
    Federation Bank Agency Department Ministry Bureau Board
    """
)

# What somebody is: a definition with one of these describes a person.
PERSON_NOUNS: Final = word_set(
    """
    actor actress author writer poet novelist playwright singer songwriter musician composer
    pianist guitarist drummer rapper producer director filmmaker screenwriter politician lawyer
    judge senator president minister governor mayor king queen prince princess emperor general
    officer soldier admiral commander player footballer cricketer golfer swimmer boxer wrestler
    athlete coach manager driver racer scientist physicist chemist mathematician biologist
    botanist astronomer philosopher historian economist psychologist physician surgeon nurse
    engineer inventor architect painter sculptor photographer artist designer journalist editor
    critic scholar professor teacher educator activist businessman businesswoman entrepreneur
    industrialist banker explorer bishop priest pope monk missionary theologian saint model
    comedian presenter broadcaster dancer choreographer conductor organist clergyman nobleman
    diplomat ambassador statesman jurist woman man goalkeeper midfielder defender psychiatrist
    mistress wife husband son daughter father mother brother sister founder leader head chairman
    chairwoman member captain successor predecessor winner chancellor dictator pilot astronaut
    performer receiver quarterback linebacker cantor translator lyricist cartoonist essayist guru
    chief heir widow developer co-founder
    """
)
