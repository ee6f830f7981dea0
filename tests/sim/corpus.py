"""Plans that once showed a bug of kmsd, with what it was. They are run with every `make test`."""

from .plan import Plan, loads

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
        "a new node began where another stood on a history that was gone": (
            '{"seed":213,"nodes":2,"daemons":1,"shards":1,"nitro":false,"pushes":true,"remote_wallet":false,"conf'
            'irmations":0,"block_interval":4.0,"asks":[{"at":4.25,"kind":"user_decryption","number":1,"variant":"'
            'good","others":0.0},{"at":6.21,"kind":"public_decryption","number":0,"variant":"good","others":0.0},'
            '{"at":10.28,"kind":"crsgen","number":300,"variant":"good","others":0.0}],"faults":[{"what":"daemon.k'
            'ill","at":3.84,"lasts":4.11,"target":1,"amount":0.371},{"what":"chain.reorg","at":7.3,"lasts":0.0,"t'
            'arget":1,"amount":0.246},{"what":"chain.reorg","at":7.68,"lasts":0.0,"target":0,"amount":0.318},{"wh'
            'at":"db.lose","at":17.23,"lasts":3.63,"target":1,"amount":0.107}]}'
        ),
        "a heartbeat answered while leaving was told as a death": (
            '{"seed":210,"nodes":2,"daemons":1,"shards":1,"nitro":false,"pushes":true,"remote_wallet":true,"confi'
            'rmations":0,"block_interval":2.0,"asks":[{"at":1.25,"kind":"crsgen","number":300,"variant":"good","o'
            'thers":0.0},{"at":6.37,"kind":"public_decryption","number":2,"variant":"good","others":0.0},{"at":6.'
            '76,"kind":"public_decryption","number":1,"variant":"good","others":0.0},{"at":7.04,"kind":"user_decr'
            'yption","number":3,"variant":"good","others":0.0},{"at":7.94,"kind":"public_decryption","number":0,"'
            'variant":"good","others":20.0},{"at":8.54,"kind":"prep_keygen","number":200,"variant":"good","others'
            '":0.0},{"at":9.54,"kind":"keygen","number":200,"variant":"good","others":0.0}],"faults":[{"what":"no'
            'de.lose","at":8.0,"lasts":9.64,"target":0,"amount":0.803},{"what":"daemon.stop","at":9.08,"lasts":1.'
            '66,"target":0,"amount":0.907},{"what":"db.lose","at":12.01,"lasts":7.11,"target":0,"amount":0.094},{'
            '"what":"node.omits","at":13.69,"lasts":7.11,"target":0,"amount":0.483},{"what":"db.held","at":16.78,'
            '"lasts":24.55,"target":1,"amount":0.785},{"what":"chain.reorg","at":20.2,"lasts":0.0,"target":1,"amo'
            'unt":0.404}]}'
        ),
        "a vote that is mined anew before its request is included again is lost, and its row stays completed": (
            '{"seed":1,"nodes":1,"daemons":1,"shards":1,"nitro":false,"pushes":false,"remote_wallet":false,'
            '"confirmations":0,"block_interval":1.0,"asks":[{"at":1.0,"kind":"user_decryption","number":0,'
            '"variant":"good","others":0.0}],"faults":[{"what":"chain.later","at":4.0,"lasts":0.0,"target":0,"amount":0.5}]}'
        ),
    }.items()
}
"""Shrunk plans by what they showed."""
