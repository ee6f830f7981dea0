"""Seeds and plans that once showed a bug of kmsd, with what it was. They are run with every `make test`."""

from .plan import Plan, loads

SEEDS: dict[int, str] = {}
"""Seeds with what they showed."""

PLANS: dict[str, Plan] = {
    words: loads(plan)
    for words, plan in {
        "a stand-by kept the responses that it had claimed": (
            '{"seed":2,"nodes":2,"daemons":2,"shards":1,"nitro":true,"pushes":false,"remote_wallet":false,'
            '"confirmations":0,"block_interval":4.0,"asks":[{"at":2.18,"kind":"prss_init","number":100,'
            '"variant":"good","others":0.0},{"at":14.7,"kind":"prep_keygen","number":200,"variant":"good",'
            '"others":0.0},{"at":17.77,"kind":"user_decryption","number":0,"variant":"good","others":0.0},'
            '{"at":18.34,"kind":"prep_keygen","number":201,"variant":"good","others":0.0}],'
            '"faults":[{"what":"db.cut","at":22.89,"lasts":0.0,"target":0,"amount":0.618}]}'
        ),
    }.items()
}
"""Shrunk plans by what they showed."""
