"""tapewatch: watches what the market says about each company.

    HOT (one direction, no way back)
     topic news, social ─▶ [score] decode ▶ link ▶ batch ▶ encode once ▶ judge every mention ─▶ topic mentions
                              └▶ dead letters
     topic mentions     ─▶ [watch] novelty ▶ buckets ▶ detectors ▶ alert life cycle ─▶ ONE database transaction
                                                                 (buckets, detector state, alerts, outbox, offsets)
     outbox             ─▶ [deliver] webhooks: signed, retried, the same id for ever

An agent in the classic sense: it perceives (intake, linking, scoring), reasons (windows, alerting) and responds
(delivery); it learns through `tapewatch train`. Rooms do not import each other; `loops` joins them, `app` wires them.
"""

__version__ = "0.1.0"
