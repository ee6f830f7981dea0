"""Pure decisions about endpoints and pauses."""

from kmsd.core.failover import PAUSE_FIRST, PAUSE_LONGEST, RETURN_AFTER, Pause, Route


def test_goes_to_the_backup_only_if_that_answers() -> None:
    route = Route(has_backup=True)
    assert not route.probed(primary_answers=True, backup_answers=True)
    assert not route.probed(primary_answers=False, backup_answers=False)
    assert route.active == 0
    assert route.probed(primary_answers=False, backup_answers=True)
    assert route.active == 1


def test_returns_after_several_good_probes_in_a_row() -> None:
    route = Route(has_backup=True, active=1)
    for _ in range(RETURN_AFTER - 1):
        assert not route.probed(primary_answers=True, backup_answers=True)
    assert not route.probed(primary_answers=False, backup_answers=True)  # the row is broken
    for _ in range(RETURN_AFTER - 1):
        assert not route.probed(primary_answers=True, backup_answers=True)
    assert route.probed(primary_answers=True, backup_answers=True)
    assert route.active == 0


def test_returns_at_once_when_the_backup_dies() -> None:
    route = Route(has_backup=True, active=1)
    assert route.probed(primary_answers=True, backup_answers=False)
    assert route.active == 0


def test_a_pause_lets_one_trial_through_and_doubles() -> None:
    pause = Pause()
    assert pause.admits(0.0)
    assert pause.unusable("UNAUTHENTICATED", began=0.0, now=1.0)
    assert not pause.unusable("UNAUTHENTICATED", began=0.5, now=1.1)  # was under way already
    assert not pause.admits(1.0 + PAUSE_FIRST - 0.1)
    trial = 1.0 + PAUSE_FIRST
    assert pause.admits(trial)
    assert not pause.admits(trial)  # one only
    assert not pause.unusable("UNAUTHENTICATED", began=trial, now=trial)
    assert pause.delay == 2 * PAUSE_FIRST


def test_a_pause_is_bounded() -> None:
    pause = Pause()
    now = 0.0
    for _ in range(10):
        assert pause.admits(now)
        pause.unusable("UNIMPLEMENTED", began=now, now=now)
        now = pause.until
    assert pause.delay == PAUSE_LONGEST


def test_only_the_trial_ends_a_pause() -> None:
    pause = Pause()
    pause.unusable("PERMISSION_DENIED", began=0.0, now=0.0)
    assert not pause.usable(began=0.0)  # an old call's answer proves nothing
    assert pause.admits(PAUSE_FIRST)
    assert pause.usable(began=PAUSE_FIRST)
    assert not pause.is_on
    assert pause.admits(PAUSE_FIRST)


def test_a_trial_without_an_answer_is_followed_by_another() -> None:
    pause = Pause()
    pause.unusable("UNIMPLEMENTED", began=0.0, now=0.0)
    assert pause.admits(PAUSE_FIRST)
    assert not pause.admits(2 * PAUSE_FIRST - 0.1)
    assert pause.admits(2 * PAUSE_FIRST)
