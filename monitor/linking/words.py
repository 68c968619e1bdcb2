"""What the rules of linking know about words. Data, not code: extend it here.

`COMMON`: names that are ordinary words or other people's names too: they need a capital and a second cue.
`NOT_COMPANIES`: longer phrases that only contain a name; the longest match wins, so they silence it.
`CUES`: words that speak of a company near by.
"""

from __future__ import annotations

COMMON = frozenset(
    ["access", "ally", "amber", "amazon", "american", "apple", "aptiv", "arch", "ares", "ball", "beam", "best", "block", "boot", "brink", "bloom", "booking", "brown", "bunge", "cable", "camden", "cardinal", "carnival", "carrier", "carter", "caterpillar", "charter", "chase", "chegg", "chewy", "cigna", "citizens", "clear", "clover", "coherent", "columbia", "comfort", "compass", "constellation", "consolidated", "cooper", "copa", "corning", "cost", "coty", "crane", "crown", "cooper", "dana", "delta", "dell", "discover", "discovery", "dollar", "domino", "dominion", "dover", "dow", "dropbox", "dutch", "eagle", "eaton", "ebay", "echo", "edison", "emerson", "energy", "equity", "essex", "everest", "evergy", "exelon", "express", "fidelity", "first", "five", "flex", "focus", "ford", "fortune", "fossil", "foster", "fox", "franklin", "frontier", "gap", "garmin", "gartner", "gen", "general", "genuine", "glad", "global", "globe", "gold", "grace", "graham", "guess", "hartford", "harris", "hess", "hilton", "home", "honest", "host", "howard", "hubbell", "humana", "hunt", "huntington", "independence", "ingersoll", "insight", "intel", "international", "invitation", "iron", "jack", "jacobs", "keller", "kellogg", "key", "kinder", "kohl", "lam", "lamb", "leggett", "lennar", "lennox", "liberty", "life", "limited", "lincoln", "linde", "live", "lucid", "macy", "marathon", "mark", "mark's", "market", "marsh", "martin", "masco", "match", "matrix", "meta", "metro", "micron", "mondelez", "monster", "moody", "mosaic", "national", "navigator", "nelson", "new", "news", "nordstrom", "northern", "nucor", "old", "on", "opendoor", "open", "oracle", "orange", "otis", "paramount", "park", "parker", "patterson", "penn", "pioneer", "plains", "plug", "polaris", "pool", "popular", "post", "premier", "prime", "principal", "progressive", "prudential", "public", "pure", "quest", "ralph", "range", "raymond", "realty", "regency", "regions", "reliance", "republic", "rivian", "robinhood", "rockwell", "rollins", "roper", "ross", "royal", "ryder", "safe", "salesforce", "sands", "schwab", "sears", "sempra", "shell", "signature", "simon", "sirius", "smith", "snap", "sonic", "southern", "southwest", "spirit", "square", "sprint", "sprouts", "staples", "state", "steel", "sterling", "stryker", "summit", "sun", "sunrun", "sysco", "tapestry", "target", "team", "texas", "timken", "toll", "toro", "tractor", "trade", "trane", "travelers", "triumph", "trimble", "tyler", "tyson", "uber", "under", "union", "united", "unity", "universal", "upstart", "urban", "vail", "valley", "ventas", "verizon", "vertex", "victory", "visa", "vistra", "vulcan", "wabtec", "walker", "waters", "wells", "wendy", "western", "whirlpool", "williams", "wolfspeed", "workday", "wynn", "xylem", "zions", "zoom"]
)

# A capital letter is enough for these in ordinary text: the company is what is nearly always meant.
CAPITAL_IS_ENOUGH = frozenset(
    ["amazon", "apple", "boeing", "dell", "ebay", "exelon", "intel", "micron", "oracle", "verizon", "uber", "visa", "meta", "garmin", "humana", "salesforce", "cigna", "sysco", "robinhood", "rivian", "kellogg", "schwab", "nordstrom", "domino", "sears", "nucor", "sunrun", "sempra", "stryker", "wabtec", "ventas", "zoom", "dropbox", "chegg", "chewy", "ford", "caterpillar"]
)

# Bare, these are indexes; the companies are named in full (Dow Inc, Nasdaq Inc).
INDEXES = frozenset({"dow", "nasdaq", "msci", "s&p", "cboe"})

NOT_COMPANIES = (
    "apple bank",
    "apple juice",
    "apple orchard",
    "apple pie",
    "apple tree",
    "big apple",
    "adam's apple",
    "amazon basin",
    "amazon forest",
    "amazon jungle",
    "amazon rainforest",
    "amazon river",
    "ford foundation",
    "gerald ford",
    "harrison ford",
    "henry ford",
    "tom ford",
    "rob ford",
    "doug ford",
    "betty ford",
    "visa application",
    "visa applications",
    "visa ban",
    "visa holders",
    "visa rules",
    "visa programme",
    "visa program",
    "visa waiver",
    "travel visa",
    "work visa",
    "student visa",
    "h-1b visa",
    "entry visa",
    "delta variant",
    "niger delta",
    "mekong delta",
    "river delta",
    "gender gap",
    "wage gap",
    "pay gap",
    "trade gap",
    "budget gap",
    "funding gap",
    "gap between",
    "target price",
    "price target",
    "inflation target",
    "target of",
    "target rate",
    "target range",
    "target date",
    "earnings target",
    "profit target",
    "on target",
    "off target",
    "soft target",
    "oracle of omaha",
    "meta analysis",
    "intel report",
    "caterpillar fungus",
    "square miles",
    "square feet",
    "times square",
    "trafalgar square",
    "red square",
    "tahrir square",
    "dow jones",
    "the dow",
    "dow industrials",
    "dow futures",
    "nasdaq composite",
    "nasdaq futures",
    "nasdaq 100",
    "s&p 500",
    "s&p futures",
    "bank of american",
    "first republic of",
    "general electric company of india",
    "goldman sachs conference",
    "american express center",
    "wells fargo center",
    "united nations",
    "united states",
    "united kingdom",
    "american airlines arena",
    "prudential center",
    "barclays center",
    "state farm",
    "met life stadium",
    "fedex cup",
    "morgan stanley conference",
)

CUES = frozenset(
    ["acquire", "acquires", "acquired", "acquisition", "activist", "adds", "agrees", "airline", "analyst", "analysts", "announces", "appoints", "automaker", "bank", "bankruptcy", "beat", "beats", "bid", "bond", "bonds", "boosts", "bought", "buy", "buyback", "buys", "ceo", "cfo", "chief", "chipmaker", "closes", "co", "company", "competitor", "corp", "corporation", "coverage", "credit", "customer", "customers", "cut", "cuts", "deal", "dealers", "debt", "delays", "delisted", "discount", "dividend", "doubles", "downgrade", "downgraded", "downgrades", "drop", "drops", "earnings", "ebitda", "employees", "estimates", "exchange", "executive", "expands", "expects", "expectations", "fall", "falls", "fell", "files", "filing", "fine", "fined", "firm", "fires", "forecast", "forecasts", "fraud", "gain", "gained", "gains", "guidance", "halts", "hikes", "hires", "holdings", "hq", "inc", "invest", "investor", "investors", "investment", "investigation", "ipo", "jobs", "jump", "jumps", "launch", "launches", "laid", "layoffs", "lawsuit", "lays", "lender", "licence", "loan", "loss", "losses", "lowers", "ltd", "maker", "manufacturer", "margin", "margins", "merger", "miss", "misses", "nyse", "nasdaq", "offer", "offering", "oil", "operating", "opens", "outlook", "outperform", "owner", "p/e", "partner", "partners", "patent", "payout", "plans", "plc", "plant", "plunge", "plunges", "posts", "prices", "probe", "product", "production", "profit", "profits", "quarter", "quarterly", "raises", "rallies", "rating", "recall", "recalls", "report", "reports", "results", "retailer", "revenue", "revenues", "rise", "rises", "rival", "rose", "sales", "says", "seeks", "sec", "sell", "sells", "sees", "selloff", "settles", "share", "shareholder", "shareholders", "shares", "shop", "shopper", "shoppers", "shuts", "shortfall", "slashes", "slides", "slumps", "soars", "spinoff", "spin-off", "stake", "stock", "stocks", "store", "stores", "strike", "subsidiary", "sues", "suppliers", "surges", "takeover", "tender", "ticker", "to-buy", "told", "trading", "tumbles", "underperform", "underwriter", "unit", "unveils", "upgrade", "upgraded", "upgrades", "valuation", "vehicle", "vehicles", "warns", "wins", "workers", "yield", "q1", "q2", "q3", "q4", "1q", "2q", "3q", "4q", "eps", "ev"]
)
