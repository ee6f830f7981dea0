"""The rules of the contract doubles: what they refuse, in which order, and how they count (wire/gateway.md 3 and 6)."""

from typing import Any

import pytest
from contract_asking import DAPP, KEY_ID, Gateway

from kmsd.sandbox import requests
from kmsd.sandbox.accounts import Call, account
from kmsd.sandbox.answers import ScriptedParty
from kmsd.sandbox.contracts import Deployment, Party, Thresholds, committee, update_kms_nodes
from kmsd.sandbox.core_double_results import key_digests
from kmsd.sandbox.handles import clear_value, make_handle
from kmsd.sandbox.logs import records
from kmsd.wire import abi
from kmsd.wire.contract import declared
from kmsd.wire.signatures import sign
from kmsd.wire.v0_11 import calls, events, typed_data, views
from kmsd.wire.v0_11.structs import (
    ContractsInfo,
    DelegationAccounts,
    HandleContractPair,
    KeyDigest,
    RequestValidity,
)

STRANGER = account("stranger")


@pytest.fixture
def gateway(chains: Any) -> Gateway:
    """The session's doubles with four handles that everybody and the user may decrypt."""
    asked = Gateway(chains.gateway, chains.host, chains.deployment)
    asked.prepare(delegated=True)
    return asked


def kinds(records_: list[Any]) -> list[str]:
    return [type(record).__name__ for record in records_]


# ---------------------------------------------------------------------------------------------------------------------
# Votes


def test_public_decryption_to_consensus_and_after(gateway: Gateway) -> None:
    """Three of four agree; the consensus event has all signatures in order; a late answer is recorded, no more."""
    request = gateway.ask(requests.public_request(gateway.deployment, gateway.handles[:2]))
    assert request.decryption_id == (1 << 248) + 1
    d = gateway.deployment
    assert not gateway.view(d.decryption, views.IS_DECRYPTION_DONE, request.decryption_id)
    assert kinds(gateway.vote(2, request)) == ["PublicDecryptionResponseCall"]
    assert kinds(gateway.vote(4, request)) == ["PublicDecryptionResponseCall"]
    answer, consensus = gateway.vote(1, request)
    assert isinstance(consensus, events.PublicDecryptionResponse)
    words = b"".join(clear_value(handle).to_bytes(32, "big") for handle in gateway.handles[:2])
    assert consensus.decrypted_result == words == answer.decrypted_result
    assert len(consensus.signatures) == 3
    assert consensus.signatures[2] == answer.signature
    assert gateway.view(d.decryption, views.IS_DECRYPTION_DONE, request.decryption_id)
    assert kinds(gateway.vote(3, request)) == ["PublicDecryptionResponseCall"]
    senders = gateway.view(d.decryption, views.GET_DECRYPTION_CONSENSUS_TX_SENDERS, request.decryption_id)
    assert senders == tuple(d.parties[number - 1].tx.address for number in (2, 4, 1, 3))


def test_votes_are_counted_by_digest(gateway: Gateway) -> None:
    """Another result or other extra data is another vote; nobody votes twice."""
    request = gateway.ask(requests.public_request(gateway.deployment, gateway.handles[:1]))
    d = gateway.deployment

    def answer(number: int, result: bytes, extra: bytes) -> list[Any]:
        party = d.parties[number - 1]
        digest = typed_data.public_decryption_digest(d.decryption_domain, gateway.handles[:1], result, extra)
        data = calls.public_decryption_response(request.decryption_id, result, sign(digest, party.signer.key), extra)
        return gateway.run(party.tx, Call(d.decryption, data))

    right = clear_value(gateway.handles[0]).to_bytes(32, "big")
    assert len(answer(1, right, b"")) == 1
    assert len(answer(2, right, b"\0")) == 1
    assert len(answer(3, bytes(32), b"")) == 1
    call = gateway.parties[2].answer(request)
    assert call is not None
    signer = d.parties[2].signer.address
    expected = ("KmsNodeAlreadySigned", request.decryption_id, signer)
    assert gateway.refusal(d.parties[2].tx, call) == expected
    assert not gateway.view(d.decryption, views.IS_DECRYPTION_DONE, request.decryption_id)
    assert len(answer(4, right, b"")) == 1


def test_user_decryption_counts_shares(gateway: Gateway) -> None:
    """Shares are numbered as they arrive; the third reaches the threshold, the fourth still counts."""
    request = gateway.ask(requests.user_request(gateway.deployment, gateway.user, gateway.handles, gateway.now))
    assert request.decryption_id == (2 << 248) + 1
    assert request.user_address == gateway.user.account.address
    seen = [gateway.vote(number, request) for number in (3, 1, 4, 2)]
    assert [answers[0].index_share for answers in seen] == [0, 1, 2, 3]
    reached = ["UserDecryptionResponse", "UserDecryptionResponseThresholdReached"]
    assert [kinds(answers) for answers in seen] == [reached[:1], reached[:1], reached, reached[:1]]


def test_ceremonies_in_the_contracts_order(gateway: Gateway) -> None:
    """Preparation → keygen → active key → reshare; one CRS; one at a time of each."""
    d, owner = gateway.deployment, gateway.deployment.owner
    prep = gateway.own(requests.keygen(d))
    assert gateway.refusal(owner, requests.keygen(d)) == ("KeygenOngoing", KEY_ID)
    assert gateway.refusal(owner, requests.key_reshare(d, KEY_ID)) == ("KeyNotGenerated", KEY_ID)
    votes = [gateway.vote(number, prep) for number in (1, 2, 3, 4)]
    assert [kinds(one) for one in votes] == [
        ["PrepKeygenResponse"],
        ["PrepKeygenResponse"],
        ["PrepKeygenResponse", "KeygenRequest"],
        ["PrepKeygenResponse"],
    ]
    keygen = votes[2][1]
    assert keygen == events.KeygenRequest((3 << 248) + 1, KEY_ID)
    active = [gateway.vote(number, keygen) for number in (1, 2, 3)][-1][-1]
    assert active.kms_node_storage_urls == tuple(party.storage_url for party in d.parties[:3])
    assert active.key_digests == key_digests(KEY_ID)
    assert gateway.view(d.kms_generation, views.GET_ACTIVE_KEY_ID) == KEY_ID
    materials = gateway.view(d.kms_generation, views.GET_KEY_MATERIALS, KEY_ID)
    assert materials.key_digests == key_digests(KEY_ID)
    assert gateway.own(requests.key_reshare(d, KEY_ID)) == events.KeyReshareSameSet(
        (3 << 248) + 1, KEY_ID, (6 << 248) + 1, 1
    )
    # A preparation's id is taken as well, and stands where the key's belongs.
    assert gateway.own(requests.key_reshare(d, (3 << 248) + 1)) == events.KeyReshareSameSet(
        KEY_ID, (3 << 248) + 1, (6 << 248) + 2, 0
    )
    assert gateway.own(requests.prss_init(d)) == events.PrssInit()

    crs = gateway.own(requests.crsgen(d, 2048))
    assert gateway.refusal(owner, requests.crsgen(d)) == ("CrsgenOngoing", crs.crs_id)
    last = [gateway.vote(number, crs) for number in (1, 2, 3)][-1]
    assert kinds(last) == ["CrsgenResponse", "ActivateCrs"]
    assert gateway.own(requests.key_reshare(d, crs.crs_id)) == events.KeyReshareSameSet(
        0, crs.crs_id, (6 << 248) + 3, 0
    )
    assert gateway.own(requests.crsgen(d)).crs_id == crs.crs_id + 1
    assert gateway.own(requests.keygen(d)).prep_keygen_id == prep.prep_keygen_id + 1


def test_all_parties_vote_in_one_block(gateway: Gateway) -> None:
    """Answers estimated together and mined together: no vote fails, one of them brings the consensus."""
    d = gateway.deployment
    public = gateway.ask(requests.public_request(d, gateway.handles[:1]))
    user = gateway.ask(requests.user_request(d, gateway.user, gateway.handles[:1], gateway.now))
    prep, crs = gateway.own(requests.keygen(d)), gateway.own(requests.crsgen(d))
    gateway.gateway.set_automine(False)
    hashes: list[bytes] = []
    for party in gateway.parties:
        answers = [party.answer(request) for request in (public, user, prep, crs)]
        hashes += gateway.sender(party.party.tx).submit([call for call in answers if call is not None])
    gateway.gateway.mine()
    receipts = [gateway.gateway.call("eth_getTransactionReceipt", "0x" + one.hex()) for one in hashes]
    assert {receipt["status"] for receipt in receipts} == {"0x1"}
    assert len({receipt["blockNumber"] for receipt in receipts}) == 1
    consensus = ("PublicDecryptionResponse", "UserDecryptionResponseThresholdReached", "KeygenRequest", "ActivateCrs")
    found = kinds(list(records(receipts)))
    assert [found.count(name) for name in consensus] == [1, 1, 1, 1]


def test_lowering_a_threshold_waits_for_the_next_vote(gateway: Gateway) -> None:
    """Two votes under a threshold of three stay two; under a threshold of two the next one counts three."""
    request = gateway.ask(requests.public_request(gateway.deployment, gateway.handles[:1]))
    gateway.vote(1, request)
    gateway.vote(2, request)
    gateway.config("updatePublicDecryptionThreshold(uint256)", 2)
    assert not gateway.view(gateway.deployment.decryption, views.IS_DECRYPTION_DONE, request.decryption_id)
    _, consensus = gateway.vote(3, request)
    assert len(consensus.signatures) == 3


def test_a_removed_node(gateway: Gateway) -> None:
    """Its answers revert; where it had voted, its storage is the empty text."""
    d = gateway.deployment
    crs = gateway.own(requests.crsgen(d))
    gateway.vote(1, crs)
    gateway.vote(2, crs)
    thresholds = Thresholds(mpc=1, public_decryption=3, user_decryption=3, kms_generation=3)
    gateway.run(d.owner, Call(d.gateway_config, update_kms_nodes(d.parties[1:], thresholds), 10_000_000))
    call = gateway.parties[0].answer(crs)
    assert call is not None
    assert gateway.refusal(d.parties[0].tx, call) == ("NotKmsTxSender", d.parties[0].tx.address)
    _, active = gateway.vote(3, crs)
    assert active.kms_node_storage_urls == ("", d.parties[1].storage_url, d.parties[2].storage_url)


# ---------------------------------------------------------------------------------------------------------------------
# Refused answers, in the order of the checks


def test_refused_decryption_answers(gateway: Gateway) -> None:
    """Sender, id, form of the signature, signer, pair, repetition: each before the next."""
    d = gateway.deployment
    public = gateway.ask(requests.public_request(d, gateway.handles[:1]))
    user = gateway.ask(requests.user_request(d, gateway.user, gateway.handles[:1], gateway.now))
    for request, respond in (
        (public, calls.public_decryption_response),
        (user, calls.user_decryption_response),
    ):
        first, second = d.parties[:2]
        call = gateway.parties[0].answer(request)
        assert call is not None
        good = calls.decode_call(call.data)[1]
        request_id, payload, signature = request.decryption_id, good[1], good[2]

        def tried(who: Any, *arguments: Any, build: Any = respond) -> tuple[Any, ...]:
            return gateway.refusal(who, Call(d.decryption, build(*arguments)))

        assert tried(STRANGER, 7, payload, b"", b"") == ("NotKmsTxSender", STRANGER.address)
        base = request_id & (0xFF << 248)
        for unknown in (0, 1, base, request_id + 1):
            assert tried(first.tx, unknown, payload, b"", b"") == ("DecryptionNotRequested", unknown)
        assert tried(first.tx, request_id, payload, b"", b"") == ("ECDSAInvalidSignatureLength", 0)
        assert tried(first.tx, request_id, payload, signature[:64], b"") == ("ECDSAInvalidSignatureLength", 64)
        high = signature[:32] + b"\xff" * 32 + signature[64:]
        assert tried(first.tx, request_id, payload, high, b"") == ("ECDSAInvalidSignatureS", b"\xff" * 32)
        for wrong_v in (0, 1, 26, 29):
            odd = signature[:64] + bytes((wrong_v,))
            assert tried(first.tx, request_id, payload, odd, b"") == ("ECDSAInvalidSignature",)
        # The event's extra data instead of the Core's: a random signer.
        assert tried(first.tx, request_id, payload, signature, b"\0")[0] == "NotKmsSigner"
        assert tried(first.tx, request_id, payload + b"\0", signature, b"")[0] == "NotKmsSigner"
        pair = (first.signer.address, second.tx.address)
        assert tried(second.tx, request_id, payload, signature, b"") == ("KmsSignerDoesNotMatchTxSender", *pair)
        gateway.vote(1, request)
        again = ("KmsNodeAlreadySigned", request_id, first.signer.address)
        assert tried(first.tx, request_id, payload, signature, b"") == again


def test_refused_ceremony_answers(gateway: Gateway) -> None:
    """The same for key management, with its own errors; ids below the base pass the guard and fail on the signature."""
    d = gateway.deployment
    first, second = d.parties[:2]
    prep = gateway.own(requests.keygen(d))
    keygen = [gateway.vote(number, prep) for number in (1, 2, 3)][-1][-1]
    crs = gateway.own(requests.crsgen(d))
    names = {"prep": "PrepKeygen", "keygen": "Keygen", "crs": "Crsgen"}
    asked = {"prep": prep.prep_keygen_id, "keygen": keygen.key_id, "crs": crs.crs_id}

    def build(kind: str, request_id: int, signature: bytes) -> Call:
        data = {
            "prep": lambda: calls.prep_keygen_response(request_id, signature),
            "keygen": lambda: calls.keygen_response(request_id, key_digests(keygen.key_id), signature),
            "crs": lambda: calls.crsgen_response(request_id, bytes(32), signature),
        }[kind]()
        return Call(d.kms_generation, data)

    good = sign(bytes(31) + b"\1", first.signer.key)
    for kind, name in names.items():
        assert gateway.refusal(STRANGER, build(kind, 0, b"")) == ("NotKmsTxSender", STRANGER.address)
        for unknown in (0, asked[kind] + 1):
            assert gateway.refusal(first.tx, build(kind, unknown, b"")) == (f"{name}NotRequested", unknown)
        assert gateway.refusal(first.tx, build(kind, 1, good))[0] == "NotKmsSigner"
        assert gateway.refusal(first.tx, build(kind, asked[kind], b"")) == ("ECDSAInvalidSignatureLength", 0)
        assert gateway.refusal(first.tx, build(kind, asked[kind], good))[0] == "NotKmsSigner"
    for kind, request in (("prep", prep), ("keygen", keygen), ("crs", crs)):
        call = gateway.parties[0].answer(request)
        assert call is not None
        pair = (first.signer.address, second.tx.address)
        assert gateway.refusal(second.tx, call) == ("KmsSignerDoesNotMatchTxSender", *pair)
        if kind != "prep":
            gateway.vote(1, request)
        expected = (f"KmsAlreadySignedFor{names[kind]}", asked[kind], first.signer.address)
        assert gateway.refusal(first.tx, call) == expected


def test_key_digests_that_are_refused(gateway: Gateway) -> None:
    """None, swapped, or of an unknown type: the last reverts without data, after sender, id and emptiness."""
    d = gateway.deployment
    party, domain = d.parties[0], d.kms_generation_domain
    prep = gateway.own(requests.keygen(d))
    server, public = key_digests(KEY_ID)
    signature = sign(typed_data.keygen_digest(domain, prep.prep_keygen_id, KEY_ID, (server, public)), party.signer.key)

    def call(digests: tuple[KeyDigest, ...], key_id: int = KEY_ID) -> Call:
        words = abi.parse_type("(uint256,(uint256,bytes)[],bytes)")
        return Call(
            d.kms_generation, calls.KEYGEN_RESPONSE.selector + abi.encode_fields(words, (key_id, digests, signature))
        )

    assert gateway.refusal(party.tx, call(())) == ("EmptyKeyDigests", KEY_ID)
    assert gateway.refusal(party.tx, call((public, server)))[0] == "NotKmsSigner"
    for unknown in (2, 3, 255, 256, 2**255):
        odd = (KeyDigest(unknown, server.digest), public)
        assert gateway.refusal(party.tx, call(odd)) == ("",)
        assert gateway.refusal(STRANGER, call(odd)) == ("NotKmsTxSender", STRANGER.address)
        assert gateway.refusal(party.tx, call(odd, KEY_ID + 1)) == ("KeygenNotRequested", KEY_ID + 1)
    # Before the preparation has its consensus, a keygen's answer is taken all the same.
    assert kinds(gateway.run(party.tx, call((server, public)))) == ["KeygenResponse"]


# ---------------------------------------------------------------------------------------------------------------------
# Refused requests


def test_refused_public_requests(gateway: Gateway) -> None:
    """Pause, emptiness, type, right, bits, material, key: each before the next."""
    d, chain_id = gateway.deployment, gateway.host.chain_id

    def tried(*handles: bytes) -> tuple[Any, ...]:
        return gateway.refusal(STRANGER, requests.public_request(d, handles))

    assert tried() == ("EmptyCtHandles",)
    assert tried(make_handle(1, chain_id, 84)) == ("InvalidFHEType", 84)
    for kind in (1, 9, 12, 83):
        assert tried(make_handle(1, chain_id, kind)) == ("UnsupportedFHEType", kind)
    unknown = make_handle(99, chain_id)
    assert tried(unknown) == ("PublicDecryptNotAllowed", unknown)
    assert tried(gateway.handles[0], unknown, make_handle(1, chain_id, 84)) == ("PublicDecryptNotAllowed", unknown)
    assert tried(*([gateway.handles[0]] * 33)) == ("MaxDecryptionRequestBitSizeExceeded", 2048, 33 * 64)
    gateway.run(d.owner, *requests.gateway_public_calls(d, [unknown]))
    assert tried(unknown) == ("CiphertextMaterialNotFound", unknown)
    gateway.run(d.owner, *requests.material_calls(d, [unknown], [bytes(32)], KEY_ID + 1))
    assert tried(gateway.handles[0], unknown)[0] == "DifferentKeyIdsNotAllowed"
    gateway.run(d.owner, Call(d.decryption, declared("pause()").encode()))
    assert tried() == ("EnforcedPause",)


def test_answers_are_taken_while_requests_are_paused(gateway: Gateway) -> None:
    """Pausing stops requests only."""
    d = gateway.deployment
    request = gateway.ask(requests.public_request(d, gateway.handles[:1]))
    gateway.run(d.owner, Call(d.decryption, declared("pause()").encode()))
    assert kinds(gateway.vote(1, request)) == ["PublicDecryptionResponseCall"]


def test_refused_user_requests(gateway: Gateway) -> None:
    """The order of wire/gateway.md 6.4, for direct and delegated requests."""
    d, who, now = gateway.deployment, gateway.user, gateway.now
    host = d.host_chain_id
    handle, other = gateway.handles[0], account("other").address

    def tried(**changes: Any) -> tuple[Any, ...]:
        values: dict[str, Any] = {
            "pairs": (HandleContractPair(handle, DAPP),),
            "validity": RequestValidity(now - 60, 30),
            "contracts": ContractsInfo(host, (DAPP,)),
            "user": who.account.address,
            "key": who.public_key,
            "signature": bytes(65),
            "extra": b"\0",
        } | changes
        return gateway.refusal(STRANGER, Call(d.decryption, calls.USER_DECRYPTION_REQUEST.encode(*values.values())))

    nothing = {"pairs": (), "validity": RequestValidity(0, 0)}
    assert tried(contracts=ContractsInfo(77, ()), **nothing) == ("HostChainNotRegistered", 77)
    assert tried(contracts=ContractsInfo(host, ()), **nothing) == ("EmptyContractAddresses",)
    eleven = ContractsInfo(host, (DAPP,) * 11)
    assert tried(contracts=eleven, **nothing) == ("ContractAddressesMaxLengthExceeded", 10, 11)
    assert tried(**nothing) == ("InvalidNullDurationDays",)
    assert tried(validity=RequestValidity(0, 366), pairs=()) == ("MaxDurationDaysExceeded", 365, 366)
    future = tried(validity=RequestValidity(now + 10_000, 1), pairs=())
    assert (future[0], future[2]) == ("StartTimestampInFuture", now + 10_000)
    expired = tried(validity=RequestValidity(now - 200_000, 1), pairs=())
    assert (expired[0], expired[2]) == ("UserDecryptionRequestExpired", (now - 200_000, 1))
    assert tried(user=DAPP, pairs=()) == ("UserAddressInContractAddresses", DAPP, (DAPP,))
    assert tried(pairs=()) == ("EmptyCtHandleContractPairs",)
    foreign = make_handle(1, 77)
    wrong_chain = ("CtHandleChainIdDiffersFromContractChainId", foreign, 77, host)
    assert tried(pairs=(HandleContractPair(foreign, other),)) == wrong_chain
    assert tried(pairs=(HandleContractPair(make_handle(1, host, 84), DAPP),)) == ("InvalidFHEType", 84)
    assert tried(user=other) == ("AccountNotAllowedToUseCiphertext", handle, other)
    assert tried(pairs=(HandleContractPair(handle, other),)) == ("AccountNotAllowedToUseCiphertext", handle, other)
    elsewhere = ContractsInfo(host, (other,))
    assert tried(contracts=elsewhere) == ("ContractNotInContractAddresses", DAPP, (other,))
    many = (HandleContractPair(handle, DAPP),) * 33
    assert tried(pairs=many) == ("MaxDecryptionRequestBitSizeExceeded", 2048, 2112)
    assert tried() == ("ECDSAInvalidSignature",)
    wrong = sign(bytes(31) + b"\1", who.account.key)
    assert tried(signature=wrong) == ("InvalidUserSignature", wrong)
    # A signature for the Gateway's chain id instead of the host chain's does not count.
    digest = typed_data.user_request_digest(d.decryption_domain, who.public_key, (DAPP,), now - 60, 30, b"\0")
    assert tried(signature=sign(digest, who.account.key))[0] == "InvalidUserSignature"


def test_refused_delegated_requests(gateway: Gateway) -> None:
    """The delegator's rights, then the delegation, then the delegate's signature."""
    d, who, now = gateway.deployment, gateway.delegate, gateway.now
    delegator = who.owner

    def tried(delegator: bytes = delegator, delegate: bytes = who.account.address) -> tuple[Any, ...]:
        arguments = (
            (HandleContractPair(gateway.handles[0], DAPP),),
            RequestValidity(now - 60, 30),
            DelegationAccounts(delegator, delegate),
            ContractsInfo(d.host_chain_id, (DAPP,)),
            who.public_key,
            bytes(65),
            b"\0",
        )
        data = calls.DELEGATED_USER_DECRYPTION_REQUEST.encode(*arguments)
        return gateway.refusal(STRANGER, Call(d.decryption, data))

    other = account("other").address
    assert tried(delegator=DAPP) == ("DelegatorAddressInContractAddresses", DAPP, (DAPP,))
    assert tried(delegator=other) == ("AccountNotAllowedToUseCiphertext", gateway.handles[0], other)
    expected = ("UserDecryptionNotDelegated", d.host_chain_id, delegator, other, DAPP)
    assert tried(delegate=other) == expected
    assert tried() == ("ECDSAInvalidSignature",)
    event = gateway.ask(requests.user_request(d, who, gateway.handles[:1], now))
    assert event.user_address == who.account.address


def test_only_the_owner_commands(gateway: Gateway) -> None:
    """Ceremonies are the owner's to start."""
    d = gateway.deployment
    commands = (requests.keygen(d), requests.crsgen(d), requests.prss_init(d), requests.key_reshare(d, KEY_ID))
    for call in commands:
        assert gateway.refusal(STRANGER, call) == ("NotGatewayOwner", STRANGER.address)


# ---------------------------------------------------------------------------------------------------------------------
# Views, the host chain, bursts


def test_a_burst_is_made_of_real_requests(gateway: Gateway) -> None:
    """One transaction, 400 requests with ids in a row, each after its fee."""
    d = gateway.deployment
    found = gateway.run(STRANGER, requests.public_burst(d, gateway.handles, rounds=100))
    assert [record.decryption_id for record in found] == [(1 << 248) + number for number in range(1, 401)]
    assert {len(record.sns_materials[0].coprocessor_tx_senders) for record in found} == {2}


def test_the_domain_is_the_proxys(gateway: Gateway) -> None:
    """eip712Domain() names the proxy, not the implementation."""
    d = gateway.deployment
    for address, domain in ((d.decryption, d.decryption_domain), (d.kms_generation, d.kms_generation_domain)):
        view = gateway.view(address, views.EIP712_DOMAIN)
        assert view[:5] == (b"\x0f", domain.name, domain.version, domain.chain_id, address)


def test_rights_on_the_host_chain(gateway: Gateway) -> None:
    """What the daemon asks: rights of accounts, of everybody, and delegations until they expire."""
    d, host = gateway.deployment, gateway.host
    handle, who = gateway.handles[0], gateway.delegate

    def asked(function: Any, *arguments: Any) -> Any:
        return gateway.view(d.acl, function, *arguments, chain=host)

    assert asked(views.IS_ALLOWED, handle, who.owner)
    assert not asked(views.IS_ALLOWED, handle, who.account.address)
    assert not asked(views.IS_ALLOWED, bytes(32), bytes(20))
    assert asked(views.IS_ALLOWED_FOR_DECRYPTION, handle)
    delegation = (who.owner, who.account.address, who.contract)
    assert asked(views.IS_HANDLE_DELEGATED_FOR_USER_DECRYPTION, *delegation, handle)
    assert not asked(views.IS_HANDLE_DELEGATED_FOR_USER_DECRYPTION, *delegation, make_handle(99, host.chain_id))
    until = asked(views.GET_USER_DECRYPTION_DELEGATION_EXPIRATION_DATE, *delegation)
    # The last second is included in this era.
    host.call("evm_setNextBlockTimestamp", until)
    host.mine()
    assert asked(views.IS_HANDLE_DELEGATED_FOR_USER_DECRYPTION, *delegation, handle)
    host.mine()
    host.call("evm_setNextBlockTimestamp", until + 3)
    host.mine()
    assert not asked(views.IS_HANDLE_DELEGATED_FOR_USER_DECRYPTION, *delegation, handle)
    gateway.sender(d.owner, host).run(requests.host_forbid_calls(d, [handle], [who.owner]))
    assert not asked(views.IS_ALLOWED, handle, who.owner)
    assert not asked(views.IS_ALLOWED_FOR_DECRYPTION, handle)


def test_the_verifier_wants_a_threshold(gateway: Gateway) -> None:
    """Three different registered signatures over this very result, or a refusal."""
    d = gateway.deployment
    request = gateway.ask(requests.public_request(d, gateway.handles[:2]))
    consensus = [gateway.vote(number, request) for number in (1, 2, 3)][-1][-1]
    verify = declared("verifyDecryptionEIP712KMSSignatures(bytes32[],bytes,bytes)", "(bool)")

    def proof(signatures: tuple[bytes, ...], extra: bytes = b"") -> bytes:
        return bytes((len(signatures),)) + b"".join(signatures) + extra

    def refused(result: bytes, given: bytes) -> str:
        call = Call(d.kms_verifier, verify.encode(tuple(gateway.handles[:2]), result, given))
        return str(Gateway.refusal(on_host, STRANGER, call)[0])

    on_host = Gateway(gateway.host, gateway.host, d)
    right, signatures = consensus.decrypted_result, consensus.signatures
    arguments = (tuple(gateway.handles[:2]), right, proof(signatures))
    assert gateway.view(d.kms_verifier, verify, *arguments, chain=gateway.host) == (True,)
    assert refused(right, b"") == "EmptyDecryptionProof"
    assert refused(right, b"\0") == "KMSZeroSignature"
    assert refused(right, proof(signatures)[:-1]) == "DeserializingDecryptionProofFail"
    assert refused(right, proof(signatures[:2])) == "KMSSignatureThresholdNotReached"
    assert refused(right, proof((signatures[0],) * 3)) == "KMSSignatureThresholdNotReached"
    assert refused(right[:-1] + b"\xff", proof(signatures)) == "KMSInvalidSigner"
    assert refused(right, proof(signatures, b"\0")) == "KMSInvalidSigner"


def test_thresholds_and_members_are_checked(gateway: Gateway) -> None:
    """Thresholds fit the committee; senders and signers are one node's each."""
    d = gateway.deployment

    def tried(parties: tuple[Party, ...], thresholds: Thresholds) -> tuple[Any, ...]:
        return gateway.refusal(d.owner, Call(d.gateway_config, update_kms_nodes(parties, thresholds)))

    four = committee(4)
    assert tried(four, Thresholds(mpc=4)) == ("InvalidHighMpcThreshold", 4, 4)
    assert tried(four, Thresholds(public_decryption=5)) == ("InvalidThreshold", 5, 4)
    assert tried(four, Thresholds(kms_generation=0)) == ("InvalidThreshold", 0, 4)
    assert tried((), Thresholds()) == ("EmptyKmsNodes",)
    twice = (four[0], Party(four[0].tx, four[1].signer, ""))
    assert tried(twice, Thresholds()) == ("KmsTxSenderAlreadyRegistered", four[0].tx.address)
    same = (four[0], Party(four[1].tx, four[0].signer, ""))
    assert tried(same, Thresholds()) == ("KmsSignerAlreadyRegistered", four[0].signer.address)


def test_a_deployment_survives_json(chains: Any) -> None:
    """The sandbox's processes get it as text."""
    assert Deployment.from_json(chains.deployment.to_json()) == chains.deployment
    assert ScriptedParty(chains.deployment, 4).party == chains.deployment.parties[3]
