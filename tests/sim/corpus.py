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
        "a request that was replaced waited for the end of a task that never was": (
            '{"seed":66,"nodes":2,"daemons":1,"shards":1,"nitro":false,"pushes":false,"remote_wallet":false,"conf'
            'irmations":0,"block_interval":4.0,"asks":[{"at":0.41,"kind":"public_decryption","number":4,"variant"'
            ':"late","others":0.0},{"at":1.38,"kind":"key_reshare_same_set","number":400,"variant":"good","others'
            '":0.0},{"at":2.3,"kind":"user_decryption","number":9,"variant":"good","others":0.0},{"at":2.4,"kind"'
            ':"prep_keygen","number":200,"variant":"good","others":0.0},{"at":3.4,"kind":"keygen","number":200,"v'
            'ariant":"good","others":0.0},{"at":6.81,"kind":"user_decryption","number":0,"variant":"good","others'
            '":0.0},{"at":8.4,"kind":"public_decryption","number":10,"variant":"good","others":0.0},{"at":9.52,"k'
            'ind":"public_decryption","number":1,"variant":"good","others":0.0},{"at":9.52,"kind":"user_decryptio'
            'n","number":2,"variant":"good","others":0.0},{"at":9.52,"kind":"public_decryption","number":3,"varia'
            'nt":"denied","others":20.0},{"at":9.52,"kind":"public_decryption","number":5,"variant":"good","other'
            's":0.0},{"at":9.52,"kind":"user_decryption","number":6,"variant":"good","others":0.0},{"at":9.52,"ki'
            'nd":"public_decryption","number":7,"variant":"good","others":0.0},{"at":9.52,"kind":"public_decrypti'
            'on","number":8,"variant":"good","others":20.0},{"at":9.52,"kind":"public_decryption","number":11,"va'
            'riant":"good","others":0.0}],"faults":[{"what":"db.lose","at":3.17,"lasts":7.99,"target":0,"amount":'
            '0.02},{"what":"db.lose","at":8.06,"lasts":10.7,"target":1,"amount":0.396},{"what":"db.slow","at":9.3'
            '9,"lasts":14.22,"target":0,"amount":0.987},{"what":"chain.reorg","at":12.48,"lasts":0.0,"target":0,"'
            'amount":0.339},{"what":"wallet.fail","at":15.4,"lasts":7.48,"target":0,"amount":0.277},{"what":"node'
            '.lose","at":19.29,"lasts":8.08,"target":0,"amount":0.324}]}'
        ),
    }.items()
}
"""Shrunk plans by what they showed."""
